"""Object stores: values and files by key."""

from monolith_py.io.objects.folder import FolderObjects
from monolith_py.io.objects.objects import ObjectInfo, Objects, is_object_url, open_objects

__all__ = ["FolderObjects", "ObjectInfo", "Objects", "is_object_url", "open_objects"]
