"""Builds the AWS-backed ports of reject."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from sluice import receipts
from sluice.aws import clients, s3, secrets
from sluice.aws.sealing import Sealing
from sluice.records.cause import Cause
from sluice.records.record import Record
from sluice.records.table import RecordsTable
from sluice.settings import RejectSettings


class RejectPorts(msgspec.Struct, frozen=True):
    """Reaches AWS for archiving."""

    settings: RejectSettings

    def is_own_message(self, *, body: str, seal: str | None, sent: datetime) -> bool:
        """Checks a seal with the keys of the sealing secret."""
        return Sealing(self.settings.sealing_secret).is_own_message(body, seal, sent)

    def fetch_claim(self, key: str) -> bytes:
        """Returns an object of the claim bucket."""
        return s3.claim_reader(self.settings.claim_bucket)(key)

    def put(self, *, objects: Mapping[str, bytes]) -> None:
        """Writes objects of the archive bucket, some at a time."""

        def put_one(item: tuple[str, bytes]) -> None:
            s3.put_object(self.settings.archive_bucket, *item)

        clients.map_concurrently(put_one, objects.items())

    def hash_key(self) -> bytes:
        """Returns the key of the hashes of personal data, read once for a process."""
        return secrets.read_secret(self.settings.records_secret, "the key of hashes cannot be read").encode()

    def erased(self) -> Mapping[str, datetime]:
        """Returns the hashes of the people who were erased, and when, as the records table has them now."""
        return self._records.erased()

    def add_records(self, *, new: Sequence[tuple[Record, Cause]]) -> Sequence[Record]:
        """Writes the records that are not there yet, links them to those they come from, returns them."""
        added = self._records.add(new)
        self._records.link([record for record, _ in new])
        return added

    def reopen(self, *, record_ids: Collection[str], job: str) -> None:
        """Opens records again whose replay is a dead letter."""
        self._records.reopen(record_ids, job, "came back as a dead letter")

    def record_rejected(self, *, receipt: str, positions: Sequence[int]) -> None:
        """Adds rejected events to a receipt of the state table."""
        receipts.record_outcome(self.settings.state_table, receipt, rejected=positions)

    @property
    def _records(self) -> RecordsTable:
        return RecordsTable(self.settings.records_table, timedelta(days=self.settings.archive_days))
