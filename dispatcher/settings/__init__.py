"""Every setting of the dispatcher: from flags, environment variables and defaults, checked all at once.

`Settings.load(os.environ, flags)` for the service, `Settings.load_some([...], os.environ, flags)` for a command that
needs two or three of them.
"""

from dispatcher.settings.describe import Row, describe
from dispatcher.settings.fields import Settings
from dispatcher.settings.unknown import unknown_variables

__all__ = ["Row", "Settings", "describe", "unknown_variables"]
