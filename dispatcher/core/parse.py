"""JSON text to Python's values, and what Python cannot parse told from what it can: without the text itself.

Postgres stores numbers of any length and any nesting, Python has limits on both.
"""

import json
import sys
from typing import Any


class CannotParse(ValueError):
    """JSON text that Python cannot parse, today or ever: says why, and quotes nothing of it."""


def parse(text: str, what: str, **options: Any) -> Any:
    """The text's values. `what`: its name, for the error; `options`: of json.loads, such as parse_float=Decimal.

    Raises CannotParse, and what functions in `options` raise.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        why = "is nested too deeply for Python"
    except json.JSONDecodeError as error:
        why = f"is no JSON at character {error.pos}"
    except ValueError as error:
        if "integer string conversion" not in str(error):
            raise
        why = f"holds a number of more than {sys.get_int_max_str_digits()} digits, which is the most that Python parses"
    raise CannotParse(f"{what} {why}")  # outside the except: the cause could quote the text
