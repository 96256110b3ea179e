"""Write the report of a run: one HTML page that works offline.

`data` and `entities` query DuckDB and return small frozen rows; the modules of charts and sections
turn them into markup; `page` puts style, script and the entities inside; `build` does all of it and
writes the file.
"""
