"""One migration for each file of sql/migrations, and those of the models. `make schema` writes the former."""
