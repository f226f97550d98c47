"""Builds the AWS-backed ports of operate."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from sluice import accounts, message, receipts, rejection, runtime
from sluice.accounts import Accounts
from sluice.admission.metric_quota import MetricQuota
from sluice.aws import clients, s3, secrets, sqs, sts
from sluice.aws.sealing import Sealing
from sluice.delivery import parking, pause
from sluice.delivery.pause import Pause
from sluice.errors import Retryable
from sluice.message import Body, PipelessMessage, StoredMessage
from sluice.operate.job_table import JobTable
from sluice.operate.parked import letter
from sluice.operate.ports import Conflict, Link, Ports, StoredDocument
from sluice.operate.reread import Lookups
from sluice.operate.transfers import ANSWER_PREFIX, REQUEST_PREFIX
from sluice.producers.envelopes import Object, notification
from sluice.producers.s3_objects import IMPORT_PREFIX
from sluice.records.record import ARCHIVE_PREFIX, Record, neighbours
from sluice.records.table import RecordsTable
from sluice.rejection import Rejection
from sluice.settings import OperateSettings
from sluice.webhooks import sources
from sluice.webhooks.sources import Sources
from sluice.wiring import accounts as wiring
from sluice.wiring.overview import AwsOverview

LINK_SECONDS: Final = 300  # for which a presigned URL is good
IMPORT_SEQUENCER: Final = "import"


def operate_ports(settings: OperateSettings, function: str) -> Ports:
    """Builds what commands reach; `function` is the name of the function that runs them."""
    return Ports(
        records=RecordsTable(settings.records_table, timedelta(days=settings.archive_days)),
        archive=_Archive(settings.archive_bucket),
        hash_key=lambda: secrets.read_secret(
            settings.records_secret, "the key of hashes cannot be read"
        ).encode(),
        jobs=JobTable(settings.records_table),
        slices=_Slices(settings.claim_bucket),
        files=_Files(settings.claim_bucket),
        events=_Events(settings),
        outcomes=functools.partial(receipts.outcomes, settings.state_table),
        lookups=functools.partial(_lookups, settings),
        overview=AwsOverview(settings, function.removesuffix("-operate")),
        imports=_Imports(settings),
        parked=_Parked(settings),
        pauses=_Pauses(settings.state_table),
        sources=_SourcesDocument(settings.config_bucket),
        accounts=_AccountsStore(settings.config_bucket),
        private_keys=_PrivateKeySecrets(settings.account_secrets),
        backlog=_Backlog((settings.events_queue_url, settings.background_queue_url), settings.claim_bucket),
        secrets=_Secrets(settings.config_bucket, settings.webhook_secrets),
        transfers=_Transfers(settings.archive_bucket),
        identities=_Identities(function),
    )


class _Archive(msgspec.Struct, frozen=True):
    bucket: str

    def lines(self, *, records: Sequence[Record]) -> Mapping[str, bytes]:
        by_key: dict[str, list[Record]] = {}
        for record in records:
            by_key.setdefault(record.archive_key, []).append(record)
        parts = [(key, part) for key, found in by_key.items() for part in neighbours(found)]

        def read(part: tuple[str, list[Record]]) -> dict[str, bytes]:
            key, found = part
            start, end = found[0].location.offset, found[-1].location.end
            content = s3.get_range(self.bucket, key, start, end)
            if content is None:
                return {}
            return {
                record.id: content[record.location.offset - start : record.location.end - start]
                for record in found
            }

        read_parts = clients.map_concurrently(read, parts)
        return {id: line for lines in read_parts for id, line in lines.items()}

    def keys(self, *, after: str | None) -> Iterator[str]:
        return s3.keys(self.bucket, ARCHIVE_PREFIX, after=after or "")

    def content(self, *, key: str) -> bytes:
        found = s3.get_object(self.bucket, key)
        return found[1] if found else b""

    def overwrite(self, *, key: str, content: bytes) -> None:
        s3.put_object(self.bucket, key, content)


class _Files(msgspec.Struct, frozen=True):
    bucket: str

    def keys(self, *, prefix: str, after: str | None) -> Iterator[str]:
        return s3.keys(self.bucket, prefix, after=after or "")

    def content(self, *, key: str) -> bytes:
        found = s3.get_object(self.bucket, key)
        return found[1] if found else b""

    def overwrite(self, *, key: str, content: bytes) -> None:
        _, metadata = s3.get_object_with_metadata(self.bucket, key)
        s3.put_object(self.bucket, key, content, metadata)


class _Slices(msgspec.Struct, frozen=True):
    bucket: str

    def put(self, *, key: str, content: bytes) -> None:
        s3.put_object(self.bucket, key, content)

    def get(self, *, key: str) -> bytes:
        found = s3.get_object(self.bucket, key)
        if found is None:
            raise Retryable(f"the messages of a slice are gone: {key}")
        return found[1]


class _Events(msgspec.Struct, frozen=True):
    settings: OperateSettings

    def send(self, *, messages: Sequence[StoredMessage | PipelessMessage], again: bool) -> None:
        by_account: dict[str, list[Body]] = {}
        for each in messages:
            by_account.setdefault(each.account, []).append(message.encode(each))
        for account, bodies in by_account.items():
            if sqs.send_messages(
                self.settings.background_queue_url,
                bodies,
                claim_bucket=self.settings.claim_bucket,
                sealing=Sealing(self.settings.sealing_secret),
                group=account,
                attributes={"resumed": "1"} if again else {},
            ):
                raise Retryable("the background queue cannot be reached")


_metric_quota: Final = MetricQuota()


def _lookups(settings: OperateSettings, *, is_plan: bool) -> Lookups:
    """Reads what reading a payload again asks about; the sources only if it does ask."""

    @functools.cache
    def all_sources() -> Sources:
        found = s3.get_object(settings.config_bucket, sources.KEY)
        return sources.decode_valid(found[1]) if found else Sources({})

    def excess(site_id: str, names: Iterable[str], is_anonymous: bool) -> frozenset[str]:
        return _metric_quota.reserve(
            settings.state_table, site_id, names, is_anonymous=is_anonymous, is_plan=is_plan
        )

    return Lookups(
        accounts=_Secrets(settings.config_bucket, settings.webhook_secrets).accounts(),
        source=lambda name: all_sources().find(name),
        excess_metrics=excess,
    )


class _Parked(msgspec.Struct, frozen=True):
    settings: OperateSettings

    @property
    def _sealing(self) -> Sealing:
        return Sealing(self.settings.sealing_secret)

    def objects(self, *, account_id: str) -> Sequence[str]:
        bucket = self.settings.claim_bucket
        return [
            key
            for prefix in (parking.PARKED_PREFIX, parking.UNKNOWN_PREFIX)
            for key in s3.keys(bucket, f"{prefix}{account_id}/")
        ]

    def every_object(self, *, after: str | None) -> Iterator[str]:
        for prefix in (parking.PARKED_PREFIX, parking.UNKNOWN_PREFIX):
            if after is None or after < prefix or after.startswith(prefix):
                yield from s3.keys(self.settings.claim_bucket, prefix, after=after or "")

    def keep_only(self, *, key: str, messages: Sequence[bytes]) -> None:
        parking.keep_only(self.settings.claim_bucket, key, messages, self._sealing)

    def messages(self, *, key: str) -> Sequence[bytes]:
        return parking.parked_messages(self.settings.claim_bucket, key, self._sealing)

    def delete(self, *, key: str) -> None:
        s3.delete_object(self.settings.claim_bucket, key)

    def send(self, *, messages: Sequence[StoredMessage | PipelessMessage], released: bool) -> None:
        attributes = {"resumed": "1"} | ({"released": "1"} if released else {})
        bodies = [message.encode(each) for each in messages]
        self._put(self.settings.background_queue_url, bodies, messages[0].account, attributes)

    def discard(self, *, messages: Sequence[StoredMessage | PipelessMessage], why: str) -> None:
        bodies = [message.encode(each) for each in messages]
        for body in bodies:
            if body.claim_key is not None:
                s3.put_object(self.settings.claim_bucket, body.claim_key, body.claim_bytes)
        letters = [
            rejection.encode(letter(each, body.text, why, runtime.now()))
            for each, body in zip(messages, bodies, strict=True)
        ]
        self._put(self.settings.rejected_queue_url, letters, None, {})

    def _put(
        self, queue_url: str, bodies: Sequence[Body], group: str | None, attributes: Mapping[str, str]
    ) -> None:
        if sqs.send_messages(
            queue_url,
            bodies,
            claim_bucket=self.settings.claim_bucket,
            sealing=self._sealing,
            group=group,
            attributes=attributes,
        ):
            raise Retryable("a queue cannot be reached")


class _Pauses(msgspec.Struct, frozen=True):
    table: str

    def begin(self, *, account_id: str, who: str, why: str) -> bool:
        return pause.begin(self.table, account_id, who=who, why=why)

    def end(self, *, account_id: str) -> bool:
        return pause.end(self.table, account_id)

    def find(self, *, account_id: str) -> Pause | None:
        return pause.find(self.table, account_id)


class _SourcesDocument(msgspec.Struct, frozen=True):
    bucket: str

    def read(self) -> StoredDocument | None:
        found = s3.get_object(self.bucket, sources.KEY)
        return StoredDocument(found[1], found[0]) if found else None

    def replace(self, *, content: bytes, etag: str | None) -> None:
        try:
            s3.replace_object(self.bucket, sources.KEY, content, etag=etag)
        except s3.ObjectChanged as error:
            raise Conflict from error


class _AccountsStore(msgspec.Struct, frozen=True):
    bucket: str

    def read(self) -> StoredDocument:
        # Not from a copy: it is read to be changed.
        found = wiring.read_document(self.bucket)
        return StoredDocument(found.content, found.etag)

    def replace(self, *, content: bytes, etag: str) -> None:
        try:
            s3.replace_object(self.bucket, accounts.KEY, content, etag=etag or None)
        except s3.ObjectChanged as error:
            # The first of two tries may have written it, and only its answer may have been lost.
            if self.read().content != content:
                raise Conflict from error


class _PrivateKeySecrets(msgspec.Struct, frozen=True):
    prefix: str

    def read(self, *, name: str) -> StoredDocument | None:
        found = secrets.find_version(self.prefix + name, f"the secret {self.prefix}{name} cannot be read")
        return None if found is None else StoredDocument(found.text.encode(), found.id)

    def write(self, *, name: str, content: bytes, etag: str | None) -> None:
        full_name, text = self.prefix + name, content.decode()
        otherwise = f"the secret {full_name} cannot be written"
        try:
            if etag is None:
                secrets.create(full_name, text, otherwise)
            else:
                secrets.replace_version(full_name, text, otherwise, version=etag)
        except secrets.SecretChanged as error:
            raise Conflict from error


class _Backlog(msgspec.Struct, frozen=True):
    queue_urls: tuple[str, ...]
    bucket: str

    def queued(self) -> int:
        return sum(map(sqs.count_messages, self.queue_urls))

    def parked(self, *, account_id: str) -> int:
        prefixes = (parking.PARKED_PREFIX, parking.UNKNOWN_PREFIX)
        return sum(len(parking.parked_objects(self.bucket, account_id, prefix=each)) for each in prefixes)


class _Secrets(msgspec.Struct, frozen=True):
    bucket: str
    prefix: str

    def accounts(self) -> Accounts:
        # Not from a copy: an operator may have written it a moment ago.
        return accounts.valid(wiring.read_document(self.bucket).content)

    def full_name(self, *, secret: str) -> str:
        return self.prefix + secret

    def has_value(self, *, secret: str) -> bool:
        client = secrets.client()
        name = self.full_name(secret=secret)
        with clients.translating_errors(f"the secret {name} cannot be looked up"):
            try:
                found = client.describe_secret(SecretId=name)
            except client.exceptions.ResourceNotFoundException:
                return False
        stages = found.get("VersionIdsToStages", {}).values()
        return "DeletedDate" not in found and any("AWSCURRENT" in each for each in stages)


class _Transfers(msgspec.Struct, frozen=True):
    bucket: str

    def store_answer(self, *, content: bytes) -> Link:
        key = f"{ANSWER_PREFIX}{runtime.unique_id()}.json"
        s3.put_object(self.bucket, key, content)
        return _link(key, s3.presign_get(self.bucket, key, seconds=LINK_SECONDS))

    def offer_upload(self, *, size: int) -> Link:
        key = REQUEST_PREFIX + runtime.unique_id()
        return _link(key, s3.presign_put(self.bucket, key, size=size, seconds=LINK_SECONDS))

    def fetch_request(self, *, key: str) -> bytes | None:
        found = s3.get_object(self.bucket, key)
        return found[1] if found else None


class _Imports(msgspec.Struct, frozen=True):
    settings: OperateSettings

    def read(self, *, id: str) -> StoredDocument | None:
        found = s3.get_object(self.settings.claim_bucket, _state_key(id))
        return StoredDocument(found[1], found[0]) if found else None

    def write(self, *, id: str, content: bytes, etag: str | None) -> None:
        try:
            s3.replace_object(self.settings.claim_bucket, _state_key(id), content, etag=etag)
        except s3.ObjectChanged as error:
            raise Conflict from error

    def has_part(self, *, key: str) -> bool:
        return s3.get_range(self.settings.claim_bucket, key, 0, 1) is not None

    def offer_part(self, *, key: str, size: int, metadata: Mapping[str, str]) -> Link:
        url = s3.presign_put(
            self.settings.claim_bucket, key, size=size, seconds=LINK_SECONDS, metadata=metadata
        )
        return _link(key, url)

    def announce(self, *, key: str, written: datetime) -> None:
        # It has no ETag but a sequencer, so that every notification of a part names the same writing of it.
        told = notification(Object(self.settings.claim_bucket, key, written, sequencer=IMPORT_SEQUENCER))
        self._send(self.settings.background_queue_url, [Body(told)])

    def reject(self, *, rejections: Sequence[Rejection]) -> None:
        self._send(self.settings.rejected_queue_url, [rejection.encode(each) for each in rejections])

    def _send(self, queue_url: str, bodies: Sequence[Body]) -> None:
        if sqs.send_messages(
            queue_url,
            bodies,
            claim_bucket=self.settings.claim_bucket,
            sealing=Sealing(self.settings.sealing_secret),
        ):
            raise Retryable("a part of an import could not be sent")


def _state_key(id: str) -> str:
    return f"{IMPORT_PREFIX}{id}/state.json"


def _link(key: str, url: str) -> Link:
    return Link(key, url, runtime.now() + timedelta(seconds=LINK_SECONDS))


class _Identities(msgspec.Struct, frozen=True):
    function: str

    def whose(self, *, url: str) -> str | None:
        return sts.caller_arn(url, function=self.function)
