"""What a folder that orbax wrote is made of, as far as it must be known for it to be replaced."""

import re

from eca_multi._files.folder import Known

NOTE = "eca_multi.json"  # what is said of the weights, beside them

# One tree in orbax's own layout. A folder with several, or with arrays in the older layout, where names of arrays are
# names of folders, is no such: what is in it may be anything.
ORBAX = Known(
    "a checkpoint of orbax and nothing else",
    "_METADATA",
    re.compile(
        rf"_METADATA|_CHECKPOINT_METADATA|_sharding|commit_success\.txt|{re.escape(NOTE)}"
        r"|array_metadatas/(process_\d+)?"
        r"|(ocdbt\.process_\d+/)?(manifest\.ocdbt|d/([0-9a-f]{32})?)|ocdbt\.process_\d+/"
    ),
)
