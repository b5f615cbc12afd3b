"""Every setting of the dispatcher: from flags, environment variables and defaults, checked all at once.

`Settings.load(os.environ, flags)` for the service, `Settings.load_some([...], os.environ, flags)` for a command that
needs two or three of them.
"""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
from dispatcher.settings.describe import Row, describe
from dispatcher.settings.fields import Settings
from dispatcher.settings.unknown import unknown_variables

__all__ = ["Row", "Settings", "describe", "unknown_variables"]
