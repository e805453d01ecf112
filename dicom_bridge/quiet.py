"""Settings of pydicom and pynetdicom that keep patients out of warnings and logs; set once, when imported.

Both libraries know them only as settings of the process. Whatever module of this folder reads data sets or opens
associations imports this one, directly or through `charset` or `network`.
"""

from __future__ import annotations

import pydicom.config
import pynetdicom._config

# pydicom checks values as it reads them, and puts those that it does not like into a warning and a log line: a
# patient's name with one character too many would stand there. What we use of a value we check ourselves.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

# pynetdicom's own log writes identifiers of queries, and formatting its records costs a tenth of the receive rate.
pynetdicom._config.LOG_REQUEST_IDENTIFIERS = False
pynetdicom._config.LOG_RESPONSE_IDENTIFIERS = False
pynetdicom._config.LOG_HANDLER_LEVEL = "none"
