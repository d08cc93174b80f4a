"""One view of a report: what is counted, grouped, ordered and said. Terminal, JUnit and page only render it.

A view reads the JSON of a report, which may come from anybody: what is missing or of another kind is left out.
A `label` is a picture in words, and `rows` are the table behind the picture.
"""

from .view import View as View
