"""The report as one HTML file: pictures and tables that need no network, no script and no second file.

Made of text alone, so that it can be written where no framework and no drawing library is installed.
"""

from .page import to_html as to_html

__all__ = ["to_html"]
