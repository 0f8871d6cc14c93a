"""Published annotations as rows of ours; a file a benchmark: `read(path)` gives its items, `convert(item)` their rows.

`convert` raises `BadRow` for an item that cannot become rows; what else a row has to be, `qa_records.parse_row` says.
"""
