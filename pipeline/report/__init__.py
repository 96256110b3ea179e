"""The report of a run: one HTML page that works offline.

`data` and `entities` ask DuckDB and return small frozen rows; `charts` and `sections` make markup of them; `page` puts
style, script and the entities inside; `build` does all of it and writes the file.
"""
