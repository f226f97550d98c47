"""Looks up what a sources document refers to: each source's account, and its secret."""

from collections.abc import Iterable, Iterator
from typing import Any

from sluice import accounts
from sluice.errors import Misconfigured
from sluice.webhooks.sources import Source
from sluicectl.deployment import Deployment, reaching
from sluicectl.errors import Unreachable


def find_missing(deployment: Deployment, sources: Iterable[Source]) -> list[str]:
    """Returns which accounts and secrets the sources name and the deployment does not have.

    It also names those that it may not look up, because the writer of sources need not be allowed to read
    accounts.
    """
    by_name = sorted(sources, key=lambda source: source.name)
    said: list[str] = []
    for look_up, what in ((_missing_accounts, "accounts"), (_missing_secrets, "secrets")):
        try:
            said += look_up(deployment, by_name)
        except (Unreachable, Misconfigured) as error:
            said.append(f"The sources' {what} could not be looked up: {error}")
    return said


def _missing_accounts(deployment: Deployment, sources: Iterable[Source]) -> Iterator[str]:
    client = deployment.client("secretsmanager")
    with reaching():
        found = client.get_secret_value(SecretId=deployment.output("AccountsSecretArn"))
    known = {account.site_id for account in accounts.parse(found["SecretString"]).accounts}
    for source in sources:
        if source.account not in known:
            yield (
                f"{source.name}: the account {source.account} is not in the accounts document. "
                "Its events are parked until it is."
            )


def _missing_secrets(deployment: Deployment, sources: Iterable[Source]) -> Iterator[str]:
    client, prefix = deployment.client("secretsmanager"), deployment.output("WebhookSecretsPrefix")
    for source in sources:
        name = prefix + source.secret
        if not _has_value(client, name):
            yield (
                f"{source.name}: the secret {name} has no value in Secrets Manager. "
                "Deliveries are answered 503 until it has."
            )


def _has_value(client: Any, name: str) -> bool:
    with reaching():
        try:
            secret = client.describe_secret(SecretId=name)
        except client.exceptions.ResourceNotFoundException:
            return False
    stages = secret.get("VersionIdsToStages", {}).values()
    return "DeletedDate" not in secret and any("AWSCURRENT" in each for each in stages)
