"""Versions that come and go below `models/` while the service runs.

fingerprint   has a folder changed?
entry         what is known of one version's folder
opening       is a version fit to be served?
folder        look, and decide what is served; in one thread
reloader      when to look; never on the event loop
"""

from service.reloading.entry import VersionState
from service.reloading.folder import ModelsFolder
from service.reloading.opening import SessionSetup
from service.reloading.reloader import Reloader

__all__ = ["ModelsFolder", "Reloader", "SessionSetup", "VersionState"]
