"""The files in a folder of orbax: a folder with any other file is never replaced."""

import re

from eca_multi._files.folder import Known

NOTE = "eca_multi.json"  # the metadata beside the weights

# One tree in orbax's own layout. Folders with several trees do not match, nor does the older layout, in which arrays
# are folders with names of their own: such folders could hold anything.
ORBAX = Known(
    "a checkpoint of orbax and nothing else",
    "_METADATA",
    re.compile(
        rf"_METADATA|_CHECKPOINT_METADATA|_sharding|commit_success\.txt|{re.escape(NOTE)}"
        r"|array_metadatas/(process_\d+)?"
        r"|(ocdbt\.process_\d+/)?(manifest\.ocdbt|d/([0-9a-f]{32})?)|ocdbt\.process_\d+/"
    ),
)
