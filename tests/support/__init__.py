"""Everything that tests share, one concern a file. tests/conftest.py loads the files that have fixtures."""
