"""Training examples for fine-tuning: file formats, conversations, loss masks and rows.

`records.py` and `token_files.py` read files, `conversations.py` recognizes the fields of a record,
`render.py` writes a conversation with the template of a model, `encode.py` turns it into ids with a
weight for each, and `dataset.py` puts these steps together and holds some documents out.
"""
