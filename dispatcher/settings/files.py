"""Secrets from files: DATABASE_URL_FILE names a file that holds what DATABASE_URL would, as Docker and Kubernetes do.

The file is read again for every connection, so that a rotated secret is used without a restart.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from dispatcher.core.errors import Misconfigured
from dispatcher.settings.kinds import Kind

SUFFIX = "_FILE"
MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A variable that names a file, and what the file must hold."""

    variable: str
    path: str
    kind: Kind

    def read(self) -> object:
        """The value that is in the file now, without the space around it. Raises Misconfigured."""
        try:
            text = self._text().strip()
        except OSError as error:
            raise self._wrong(f"this file cannot be read ({error.strerror or type(error).__name__})") from None
        except ValueError as error:
            raise self._wrong(f"this file {error}") from None
        try:
            return self.kind.parse(text)
        except ValueError as error:
            raise self._wrong(f"the content of this file must be {error}") from None

    def _text(self) -> str:
        if not stat.S_ISREG(Path(self.path).stat().st_mode):  # a pipe would be waited for, and read only once
            raise ValueError("is no regular file")
        with Path(self.path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"is larger than {MAX_BYTES} bytes")
        if not data.strip():
            raise ValueError("is empty")
        try:
            return data.decode("utf-8-sig")  # Windows puts a mark before the text
        except UnicodeDecodeError:
            raise ValueError("is not UTF-8 text") from None

    def _wrong(self, what: str) -> Misconfigured:
        looks_like_a_path = self.path.startswith(("/", "./", "../")) and "://" not in self.path
        if looks_like_a_path or os.path.exists(self.path):  # noqa: PTH110 -- Path.exists raises where it may not look
            return Misconfigured(f"{self.variable} is '{self.path}': {what}")
        # Somebody may have put the secret itself where its file's name belongs.
        return Misconfigured(f"{self.variable} is '***': {what}; it must be a path such as /run/secrets/name")
