"""Old names, until every room uses ``trial_folders``."""

from studies.transfer.trial_folders import TrialFolders as Supplies
from studies.transfer.trial_folders import unreadable_image as unreadable

__all__ = ["Supplies", "unreadable"]
