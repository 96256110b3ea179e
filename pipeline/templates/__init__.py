"""Write facts as sentences: templates, and the reader of files of them."""
