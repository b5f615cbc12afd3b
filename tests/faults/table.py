"""`python -m tests.faults.table`: the faults of the last runs as Markdown, for docs/explanation/guarantees.md."""

from tests.support.faults.results import markdown, read, results_file

if __name__ == "__main__":
    found = read()
    print(markdown(found) if found else f"no results in {results_file()}; run `make faults` first")  # noqa: T201
