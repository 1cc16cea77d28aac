"""What people have with other services: signing in, what is kept of it, and how that stays fresh.

`Accounts` is where it begins. `Vault` keeps documents, encrypted; `SignIns` are those under way; `oauth` makes the
requests.
"""

from chatcore.accounts.flow import CALL_BACK, Accounts, Status
from chatcore.accounts.sign_ins import Answer, SignIns
from chatcore.accounts.vault import Entry, Vault

__all__ = ["CALL_BACK", "Accounts", "Answer", "Entry", "SignIns", "Status", "Vault"]
