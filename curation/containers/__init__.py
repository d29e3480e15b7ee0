"""Images inside archives and tables, read in place: a bounded number of bytes, without unpacking.

:mod:`~curation.containers.registry` names every kind; a new one is a file with suffixes, how to list and how to read.
:mod:`~curation.containers.unpack` unpacks what cannot be read in place.
"""

from __future__ import annotations

from curation.containers.container import BrokenArchive, Container, Member
from curation.containers.registry import CONTAINERS, container_of, list_members, read_member

__all__ = ["CONTAINERS", "BrokenArchive", "Container", "Member", "container_of", "list_members", "read_member"]
