"""What a device has of one conversation's log (docs/protocol.md, section 11). Pure: entries in, entries to show out."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ConversationLog:
    """Entries in order, each shown once."""

    # Everything the user may see up to here is here.
    have_seq: int = 0
    # The highest seq heard of.
    head_seq: int = 0
    # Changes up to here are here.
    have_rev: int = 0
    head_rev: int = 0
    entries: dict[int, Any] = field(default_factory=dict)
    _early: dict[int, Any] = field(default_factory=dict)

    def pushed(self, entries: list[Any]) -> list[Any]:
        """Takes entries of a push; gives those that are new and in order now, or changed."""
        shown = []
        for entry in entries:
            self.head_seq = max(self.head_seq, entry.seq)
            if entry.seq <= self.have_seq:
                shown += self.changed([entry])
            else:
                self._early[entry.seq] = entry
        return shown + self._appended()

    def pulled(self, from_seq: int, entries: list[Any], head_seq: int, more: bool) -> list[Any]:
        """Takes an ascending page from `from_seq`. What it leaves out up to its end is not this user's to see."""
        self.head_seq = max(self.head_seq, head_seq)
        if from_seq > self.have_seq + 1:
            raise ValueError(f"a page from {from_seq} after {self.have_seq} would leave a hole")
        shown = []
        for entry in entries:
            if entry.seq > self.have_seq:
                self.have_seq = entry.seq
                shown.append(self._keep(entry))
        if not more:
            self.have_seq = max(self.have_seq, head_seq)
        self._early = {seq: entry for seq, entry in self._early.items() if seq > self.have_seq}
        return shown + self._appended()

    def changed(self, entries: list[Any]) -> list[Any]:
        """Takes entries as they are now; gives those that are newer than what was here."""
        return [
            self._keep(entry)
            for entry in entries
            if entry.seq <= self.have_seq and entry.rev > getattr(self.entries.get(entry.seq), "rev", -1)
        ]

    def _appended(self) -> list[Any]:
        shown = []
        while (entry := self._early.pop(self.have_seq + 1, None)) is not None:
            self.have_seq = entry.seq
            shown.append(self._keep(entry))
        return shown

    def _keep(self, entry: Any) -> Any:
        self.entries[entry.seq] = entry
        return entry
