"""What we accept in an association: the storage classes and the transfer syntaxes."""

from __future__ import annotations

from typing import Final

from pynetdicom.presentation import AllStoragePresentationContexts

from dicom_bridge.transfer_syntaxes import TRANSFER_SYNTAXES as TRANSFER_SYNTAXES

# Every standard storage class: a PACS that forwards whole studies stops at the first class that is refused. Those
# that no model can use are kept like the others. Private classes are not accepted (PS3.4 table B.5-1).
STORAGE_CLASSES: Final = tuple(sorted(str(context.abstract_syntax) for context in AllStoragePresentationContexts))
