"""Why a comparison fails: localisation, fingerprints, shrinking, and bundles that run a failure again."""
