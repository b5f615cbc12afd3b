"""What an exception of an application says of itself, and where it was raised."""


def text_of(error: BaseException) -> str:
    """Its message; empty when that cannot be made: an exception may have a __str__ that fails."""
    try:
        return str(error)
    except Exception:
        return ""


def place_of(error: BaseException) -> str:
    """`path:line` of the innermost frame; empty when the exception has no traceback.

    What is no text in a path is replaced: Postgres could not store it.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    path = trace.tb_frame.f_code.co_filename.encode(errors="replace").decode()
    return f"{path}:{trace.tb_lineno}"
