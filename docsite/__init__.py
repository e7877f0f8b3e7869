"""The site of docs/: MkDocs' hook, and pages that are generated from the code."""
