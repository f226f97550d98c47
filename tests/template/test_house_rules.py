"""Holds the expanded template to rules that no linter knows, for every parameter it allows.

A rule is a function that yields what is wrong. Each is tried twice: on the template, where it must find
nothing, and on templates broken on purpose, where it must find something.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from sluice import settings
from sluice.delivery import parking, poison

type Template = dict[str, Any]
type Rule = Callable[[Template], Iterator[str]]

DAY = 24 * 60 * 60
FUNCTION = "AWS::Lambda::Function"
MAPPING = "AWS::Lambda::EventSourceMapping"
QUEUE = "AWS::SQS::Queue"
# The secrets of webhook sources, which operators make: the start of their names, and their ARNs.
WEBHOOK_SECRETS = (
    "${AWS::StackName}/webhooks/",
    "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:${AWS::StackName}/webhooks/*",
)
_ACCOUNT_SECRETS = WEBHOOK_SECRETS[1].replace("/webhooks/*", "/accounts/")
ACCOUNT_SECRETS = ("${AWS::StackName}/accounts/", f"{_ACCOUNT_SECRETS}*", f"{_ACCOUNT_SECRETS}pipeless-*")
# Of a bucket of the stack's: what is below a prefix, or one object. No function needs all.
_OBJECTS = re.compile(r"\$\{(\w+)\.Arn\}/(?:(?:[a-z]+/)+\*|[a-z]+\.json)")
ROLE = "AWS::IAM::Role"
BUCKET = "AWS::S3::Bucket"
SETTINGS: dict[str, type[msgspec.Struct] | None] = {
    "DocsFunction": None,
    "IngestFunction": settings.IngestSettings,
    "DispatchFunction": settings.DispatchSettings,
    "RejectFunction": settings.RejectSettings,
    "ResumeFunction": settings.ResumeSettings,
    "OperateFunction": settings.OperateSettings,
}


def of_type(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    """Returns the properties of each resource of a type, by logical id."""
    return {
        name: resource.get("Properties", {})
        for name, resource in template["Resources"].items()
        if resource["Type"] == kind
    }


def choices(template: Template, expression: Any) -> list[int]:
    """Returns every number, or the least and the greatest, that a literal or a parameter may be."""
    if not isinstance(expression, dict):
        return [int(expression)]
    parameter = template["Parameters"][expression["Ref"]]
    return [int(n) for n in parameter.get("AllowedValues") or (parameter["MinValue"], parameter["MaxValue"])]


def look_up(template: Template, expression: Any, parameters: dict[str, Any]) -> int:
    """Returns the number of a literal, or of a look-up in a mapping by a parameter."""
    if not isinstance(expression, dict):
        return int(expression)
    name, key, inner = expression["Fn::FindInMap"]
    key = parameters[key["Ref"]] if isinstance(key, dict) else key
    return int(template["Mappings"][name].get(str(key), {}).get(inner, 0))


def target(reference: Any) -> str:
    """Returns the logical id that a Ref, a GetAtt, or a Sub of some of a bucket's objects points to; else
    nothing.

    The secrets of webhook sources count as one resource of the stack, and so do those of private keys.
    """
    match reference:
        case {"Fn::Sub": text} if text in WEBHOOK_SECRETS:
            return "WebhookSecrets"
        case {"Fn::Sub": text} if text in ACCOUNT_SECRETS:
            return "AccountSecrets"
        case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), _]}:
            return name
        case {"Fn::Sub": str(text)} if found := _OBJECTS.fullmatch(text):
            return found[1]
        case {"Fn::Split": [",", {"Fn::Sub": ["arn:aws:s3:::${Names}" | "arn:aws:s3:::${Names}/*", names]}]}:
            return target(names["Names"]["Fn::Join"][1]["Fn::Split"][1])
    return ""


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(role: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields everything a role may be allowed, also under a condition."""
    for policy in role.get("Policies", []):
        for each in policy["PolicyDocument"]["Statement"]:
            yield each["Fn::If"][1] if "Fn::If" in each else each


def visibility_outlasts_the_work(template: Template) -> Iterator[str]:
    """Finds queues whose messages become visible again while they are processed.

    Lambda waits out the window and retries a throttled batch while its messages are invisible. AWS asks for
    six times the timeout plus the window; otherwise a second worker gets the same messages.
    """
    for name, mapping in of_type(template, MAPPING).items():
        timeout = template["Resources"][target(mapping["FunctionName"])]["Properties"]["Timeout"]
        queue = template["Resources"][target(mapping["EventSourceArn"])]["Properties"]
        window = max(choices(template, mapping["MaximumBatchingWindowInSeconds"]))
        for seconds in choices(template, timeout):
            visible = look_up(template, queue["VisibilityTimeout"], {target(timeout): seconds})
            if visible < 6 * seconds + window:
                yield f"{name}: {visible} s of invisibility for a timeout of {seconds} s"


def batches_are_possible(template: Template) -> Iterator[str]:
    """Finds batches that Lambda refuses, but only when they are deployed."""
    for name, mapping in of_type(template, MAPPING).items():
        sizes = choices(template, mapping["BatchSize"])
        windows = choices(template, mapping["MaximumBatchingWindowInSeconds"])
        if not 1 <= min(sizes) <= max(sizes) <= 10_000:
            yield f"{name}: batches of {sizes}"
        if max(sizes) > 10 and min(windows) < 1:
            yield f"{name}: a batch above 10 needs a window"
        if max(windows) > 300:
            yield f"{name}: a window above 300 s"
        concurrency = mapping.get("ScalingConfig", {}).get("MaximumConcurrency", 0)
        if min(choices(template, concurrency)) < 2:
            yield f"{name}: MaximumConcurrency has to be set and at least 2"


def failures_are_partial(template: Template) -> Iterator[str]:
    """Finds mappings without partial failures: there, one message fails its whole batch, and all of it is
    sent again.
    """
    for name, mapping in of_type(template, MAPPING).items():
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{name}: does not report batch item failures"


def mappings_can_be_switched_off(template: Template) -> Iterator[str]:
    """Finds mappings that are always on: in a local run another program does the polling."""
    for name, mapping in of_type(template, MAPPING).items():
        if mapping.get("Enabled") != {"Fn::If": ["Poll", True, False]}:
            yield f"{name}: ignores PollingEnabled"


def dead_letters_wait_longest(template: Template) -> Iterator[str]:
    """Finds dead-letter queues that keep messages too short, and queues that set them aside too early.

    A message keeps the time at which it was first sent when it is set aside, so only the longest retention
    leaves it a wait. Waiting for an upstream costs receives, so few of them would set good messages aside.
    """
    queues = of_type(template, QUEUE)
    redrives = {name: queue["RedrivePolicy"] for name, queue in queues.items() if "RedrivePolicy" in queue}
    dead = {target(redrive["deadLetterTargetArn"]) for redrive in redrives.values()}
    for name, redrive in redrives.items():
        least = min(choices(template, redrive["maxReceiveCount"]))
        if least < 10:
            yield f"{name}: sets messages aside after {least} receives"
        source_keeps = queues[name]["MessageRetentionPeriod"]
        dead_keeps = queues[target(redrive["deadLetterTargetArn"])]["MessageRetentionPeriod"]
        if dead_keeps != 14 * DAY or dead_keeps < source_keeps:
            yield f"{name}: its dead letters are kept {dead_keeps} s"
    for name in queues.keys() - redrives.keys() - dead:
        yield f"{name}: has no dead-letter queue"


# AWS can allow these for no less than all metrics, or all alarms, of an account and region.
LOOKS_AT_ALL = {"cloudwatch:GetMetricData", "cloudwatch:DescribeAlarms"}


def roles_are_narrow(template: Template) -> Iterator[str]:
    """Finds roles that are shared or wide: each has actions by name, on resources of this stack."""
    used = [target(function["Role"]) for function in of_type(template, FUNCTION).values()]
    roles = of_type(template, ROLE)
    if sorted(used) != sorted(roles):
        yield f"functions use the roles {used} of {list(roles)}"
    for name, role in roles.items():
        if "ManagedPolicyArns" in role:
            yield f"{name}: has a managed policy"
        for statement in statements(role):
            if any("*" in action for action in as_list(statement["Action"])):
                yield f"{name}: {statement['Action']}"
            is_of_this_stack = all(map(target, as_list(statement["Resource"])))
            if not is_of_this_stack and not LOOKS_AT_ALL.issuperset(as_list(statement["Action"])):
                yield f"{name}: {statement['Resource']}"


def policies_stay_in_roles(template: Template) -> Iterator[str]:
    """Finds policies elsewhere, because there is one place to read a function's permissions."""
    for kind in ("AWS::IAM::ManagedPolicy", "AWS::IAM::Policy", "AWS::IAM::RolePolicy"):
        yield from (f"{name}: a policy outside a role" for name in of_type(template, kind))


def transport_is_encrypted(template: Template) -> Iterator[str]:
    """Finds buckets and queues that can be reached without TLS.

    EventsQueue is not among them, because its one policy is the producers' own.
    """
    held = {"EventsQueue"}
    for kind, name_of in (("AWS::S3::BucketPolicy", "Bucket"), ("AWS::SQS::QueuePolicy", "Queues")):
        for policy in of_type(template, kind).values():
            for statement in as_list(policy["PolicyDocument"]["Statement"]):
                everything = {"Effect": "Deny", "Principal": "*"}.items() <= statement.items()
                if everything and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}:
                    held |= {target(each) for each in as_list(policy[name_of])}
    for kind in ("AWS::S3::Bucket", "AWS::SQS::Queue"):
        yield from (f"{name}: takes requests without TLS" for name in of_type(template, kind).keys() - held)


def only_dead_letter_queues_take_dead_letters(template: Template) -> Iterator[str]:
    """Finds queues with a redrive policy in which other queues could leave their dead letters."""
    for name, queue in of_type(template, "AWS::SQS::Queue").items():
        allowed = queue.get("RedriveAllowPolicy", {}).get("redrivePermission")
        if "RedrivePolicy" in queue and allowed != "denyAll":
            yield f"{name}: takes the dead letters of others"


def logs_expire(template: Template) -> Iterator[str]:
    """Finds functions without a log group: one that Lambda makes by itself is kept for ever."""
    groups = of_type(template, "AWS::Logs::LogGroup")
    for name, function in of_type(template, FUNCTION).items():
        group = target(function.get("LoggingConfig", {}).get("LogGroup"))
        if group != f"{name}LogGroup" or "RetentionInDays" not in groups.get(group, {}):
            yield f"{name}: has no log group with a retention of its own"
            continue
        role = template["Resources"][target(function["Role"])]["Properties"]
        logs = [each for each in statements(role) if str(each["Action"]).find("logs:") >= 0]
        if [target(each["Resource"]) for each in logs] != [group]:
            yield f"{name}: may write to other logs than its own"


def only_own_lines_are_logged(template: Template) -> Iterator[str]:
    """Finds log levels below INFO: there boto3 logs payloads and keys, because the level is the whole
    process's.
    """
    for name, function in of_type(template, FUNCTION).items():
        variables = function.get("Environment", {}).get("Variables", {})
        if function.get("LoggingConfig", {}).get("ApplicationLogLevel") != "INFO":
            yield f"{name}: has no fixed level"
        if "POWERTOOLS_LOG_LEVEL" in variables:
            yield f"{name}: has a level of its own"


def environment_is_what_the_function_reads(template: Template) -> Iterator[str]:
    """Finds variables that a function does not know, or lacks: Settings refuses both."""
    for name, function in of_type(template, FUNCTION).items():
        variables = function.get("Environment", {}).get("Variables", {})
        given = {variable for variable in variables if variable.startswith("SLUICE_")}
        kind = SETTINGS[name]
        read = {f"SLUICE_{field.name.upper()}" for field in msgspec.structs.fields(kind)} if kind else set()
        if given != read:
            yield f"{name}: {sorted(given ^ read)}"
        service = f"sluice-{name.removesuffix('Function').lower()}" if kind else None
        if variables.get("POWERTOOLS_SERVICE_NAME") != service:
            yield f"{name}: logs under another name"


def what_is_named_may_be_used(template: Template) -> Iterator[str]:
    """Finds resources in a function's environment that its role does not name: a mistake in either place.

    A literal there could be a secret, and so could a parameter that is not to be shown.
    """
    shown = {name for name, parameter in template["Parameters"].items() if "NoEcho" not in parameter}
    for name, function in of_type(template, FUNCTION).items():
        role = template["Resources"][target(function["Role"])]["Properties"]
        allowed = {target(resource) for each in statements(role) for resource in as_list(each["Resource"])}
        for variable, value in function.get("Environment", {}).get("Variables", {}).items():
            if variable.startswith("SLUICE_") and target(value) not in allowed | shown:
                yield f"{name}: {variable} is {value}"


def secrets_stay_in_the_secret(template: Template) -> Iterator[str]:
    """Finds dynamic references and secrets with a value, which would copy one into a configuration or the
    stack. A generated one stays in Secrets Manager.
    """
    if "{{resolve:" in json.dumps(template):
        yield "a dynamic reference"
    for name, secret in of_type(template, "AWS::SecretsManager::Secret").items():
        if "GenerateSecretString" not in secret:
            yield f"{name}: has a value"


def functions_have_no_dead_letter_queue(template: Template) -> Iterator[str]:
    """Finds functions with a dead-letter queue, which serves asynchronous invocation alone.

    These functions are invoked by queues, the API and a schedule whose next tick does what one missed.
    """
    for name, function in of_type(template, FUNCTION).items():
        if "DeadLetterConfig" in function:
            yield f"{name}: has a dead-letter queue"
    yield from of_type(template, "AWS::Lambda::EventInvokeConfig")


def alarms_see_dead_letters(template: Template) -> Iterator[str]:
    """Finds alarms that count sent messages: SQS does not count one that a redrive policy moves."""
    watched = set()
    for name, alarm in of_type(template, "AWS::CloudWatch::Alarm").items():
        for metric in _metrics(alarm):
            if metric["MetricName"] == "NumberOfMessagesSent":
                yield f"{name}: never sounds"
            watched |= {(target(each["Value"]), metric["MetricName"]) for each in metric["Dimensions"]}
    for queue, metric in [
        ("EventsQueue", "ApproximateAgeOfOldestMessage"),
        ("EventsQueue", "ApproximateNumberOfMessagesNotVisible"),
        ("BackgroundQueue", "ApproximateAgeOfOldestMessage"),
        ("RejectedDeadLetterQueue", "ApproximateNumberOfMessagesVisible"),
        ("RejectedDeadLetterQueue", "ApproximateNumberOfMessagesNotVisible"),
        ("", "OldestRetriedMessageAge"),
        ("", "OpenCircuits"),
        ("", "UnknownAccounts"),
        ("", "DeadLetters"),
        ("", "RejectedEvents"),
        ("", "AcceptedEvents"),
        ("", "SourcesLoadFailures"),
        ("", "AccountsLoadFailures"),
        ("", "UnforeseenFailures"),
        ("ApiStage", "5XXError"),
    ]:
        if (queue, metric) not in watched:
            yield f"{queue or 'Sluice'}: nobody watches {metric}"


def alarms_come_before_sqs_stops(template: Template) -> Iterator[str]:
    """Finds alarms that come too late: with 120,000 messages in flight a standard queue hands out nothing."""
    for name, alarm in of_type(template, "AWS::CloudWatch::Alarm").items():
        watches = {metric["MetricName"] for metric in _metrics(alarm)}
        if "ApproximateNumberOfMessagesNotVisible" in watches and alarm["Threshold"] >= 120_000:
            yield f"{name}: too late"


def _metrics(alarm: Any) -> list[Any]:
    """Returns the metrics that an alarm watches: its one, or those of its expression."""
    if "Metrics" not in alarm:
        return [alarm]
    return [each["MetricStat"]["Metric"] for each in alarm["Metrics"] if "MetricStat" in each]


def ticks_are_not_repeated(template: Template) -> Iterator[str]:
    """Finds schedules that try a tick again, which would run beside the next one."""
    for name, schedule in of_type(template, "AWS::Events::Rule").items():
        for each in schedule["Targets"]:
            if each.get("RetryPolicy", {}).get("MaximumRetryAttempts") != 0:
                yield f"{name}: is tried again"


def data_is_encrypted_and_private(template: Template) -> Iterator[str]:
    """Finds stores that are open or not encrypted: events are personal data wherever they rest."""
    for name, queue in of_type(template, QUEUE).items():
        if queue.get("SqsManagedSseEnabled") is not True:
            yield f"{name}: not encrypted"
    for name, table in of_type(template, "AWS::DynamoDB::Table").items():
        if not table.get("SSESpecification", {}).get("SSEEnabled"):
            yield f"{name}: not encrypted"
    for name, bucket in of_type(template, BUCKET).items():
        if "BucketEncryption" not in bucket:
            yield f"{name}: not encrypted"
        if list(bucket.get("PublicAccessBlockConfiguration", {}).values()) != [True] * 4:
            yield f"{name}: could be public"


def claims_outlive_their_messages(template: Template) -> Iterator[str]:
    """Finds claim checks that expire too early: without one, a request is lost; parked objects have no
    other copy.
    """
    longest = max(queue["MessageRetentionPeriod"] for queue in of_type(template, QUEUE).values())
    for rule in template["Resources"]["ClaimBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]:
        if rule["ExpirationInDays"] * DAY <= longest and rule.get("Prefix") != poison.JOURNAL_PREFIX:
            yield f"ClaimBucket: a message may outlive its claim by {rule['Id']}"
        prefix = rule.get("Prefix", "")
        if any(each.startswith(prefix) for each in (parking.PARKED_PREFIX, parking.UNKNOWN_PREFIX)):
            yield f"ClaimBucket: parked messages expire by {rule['Id']}"


def what_cannot_be_made_again_is_kept(template: Template) -> Iterator[str]:
    """Finds stores that a deletion of the stack deletes, or a replacement empties."""
    for name in ("ArchiveBucket", "RecordsTable", "ConfigBucket", "SealingSecret"):
        if template["Resources"][name].get("DeletionPolicy") != "Retain":
            yield f"{name}: goes with the stack"
    for kind in (QUEUE, BUCKET, "AWS::DynamoDB::Table", "AWS::SecretsManager::Secret"):
        for name in of_type(template, kind):
            if template["Resources"][name].get("UpdateReplacePolicy") != "Retain":
                yield f"{name}: goes when it is replaced"


RULES: list[Rule] = [
    visibility_outlasts_the_work,
    batches_are_possible,
    failures_are_partial,
    mappings_can_be_switched_off,
    dead_letters_wait_longest,
    roles_are_narrow,
    policies_stay_in_roles,
    transport_is_encrypted,
    only_dead_letter_queues_take_dead_letters,
    logs_expire,
    only_own_lines_are_logged,
    environment_is_what_the_function_reads,
    what_is_named_may_be_used,
    secrets_stay_in_the_secret,
    functions_have_no_dead_letter_queue,
    alarms_see_dead_letters,
    alarms_come_before_sqs_stops,
    ticks_are_not_repeated,
    data_is_encrypted_and_private,
    claims_outlive_their_messages,
    what_cannot_be_made_again_is_kept,
]
STATEMENTS = "Resources.{}FunctionRole.Properties.Policies.0.PolicyDocument.Statement"
ENVIRONMENT = "Resources.IngestFunction.Properties.Environment.Variables"
BREACHES: list[tuple[Rule, str, Any]] = [
    (visibility_outlasts_the_work, "Mappings.VisibilityTimeout.120.Seconds", 1019),
    (visibility_outlasts_the_work, "Resources.EventsDeadLetterQueue.Properties.VisibilityTimeout", 360),
    (visibility_outlasts_the_work, "Parameters.DispatchTimeout.AllowedValues", [30, 60, 180]),
    (batches_are_possible, "Parameters.DispatchBatchSize.MaxValue", 100_000),
    (batches_are_possible, "Parameters.DispatchBatchingWindow.MinValue", 0),
    (batches_are_possible, "Parameters.RejectBatchingWindow.MaxValue", 301),
    (batches_are_possible, "Parameters.RejectConcurrency.MinValue", 1),
    (batches_are_possible, "Resources.EventsMapping.Properties.ScalingConfig", {}),
    (failures_are_partial, "Resources.RejectedMapping.Properties.FunctionResponseTypes", []),
    (mappings_can_be_switched_off, "Resources.EventsMapping.Properties.Enabled", True),
    (dead_letters_wait_longest, "Resources.EventsDeadLetterQueue.Properties.MessageRetentionPeriod", 4 * DAY),
    (dead_letters_wait_longest, "Parameters.MaxReceiveCount.MinValue", 3),
    (dead_letters_wait_longest, "Resources.NewQueue", {"Type": QUEUE, "Properties": {}}),
    (roles_are_narrow, f"{STATEMENTS.format('Ingest')}.1.Resource", "*"),
    (roles_are_narrow, f"{STATEMENTS.format('Ingest')}.2.Resource", {"Fn::Sub": "${ClaimBucket.Arn}*"}),
    (roles_are_narrow, f"{STATEMENTS.format('Ingest')}.2.Resource", {"Fn::Sub": "${ConfigBucket.Arn}/*"}),
    (
        roles_are_narrow,
        f"{STATEMENTS.format('Ingest')}.1.Resource.1",
        {"Fn::Sub": WEBHOOK_SECRETS[1].replace("${AWS::StackName}/webhooks/", "")},
    ),
    (roles_are_narrow, f"{STATEMENTS.format('Dispatch')}.3.Action", "sqs:*"),
    (roles_are_narrow, f"{STATEMENTS.format('Dispatch')}.11.Fn::If.1.Resource", "arn:aws:s3:::*"),
    (roles_are_narrow, f"{STATEMENTS.format('Dispatch')}.12.Fn::If.1.Action", "s3:*"),
    (roles_are_narrow, "Resources.RejectFunctionRole.Properties.ManagedPolicyArns", []),
    (roles_are_narrow, "Resources.RejectFunction.Properties.Role", {"Ref": "IngestFunctionRole"}),
    (policies_stay_in_roles, "Resources.Extra", {"Type": "AWS::IAM::Policy"}),
    (transport_is_encrypted, "Resources.ClaimBucketPolicy.Properties.Bucket", {"Ref": "Another"}),
    (transport_is_encrypted, "Resources.RejectedQueuePolicy.Properties.PolicyDocument.Statement", []),
    (
        only_dead_letter_queues_take_dead_letters,
        "Resources.EventsQueue.Properties.RedriveAllowPolicy.redrivePermission",
        "allowAll",
    ),
    (logs_expire, "Resources.IngestFunctionLogGroup.Properties", {}),
    (logs_expire, "Resources.IngestFunction.Properties.LoggingConfig", {}),
    (logs_expire, f"{STATEMENTS.format('Reject')}.0.Resource", {"Ref": "IngestFunctionLogGroup"}),
    (
        only_own_lines_are_logged,
        "Resources.IngestFunction.Properties.LoggingConfig.ApplicationLogLevel",
        "DEBUG",
    ),
    (only_own_lines_are_logged, f"{ENVIRONMENT}.POWERTOOLS_LOG_LEVEL", "DEBUG"),
    (
        environment_is_what_the_function_reads,
        f"{ENVIRONMENT}.SLUICE_ARCHIVE_BUCKET",
        {"Ref": "ArchiveBucket"},
    ),
    (environment_is_what_the_function_reads, f"{ENVIRONMENT}.POWERTOOLS_SERVICE_NAME", "service"),
    (
        environment_is_what_the_function_reads,
        "Resources.DocsFunction.Properties.Environment",
        {"Variables": {"SLUICE_ARCHIVE_BUCKET": {"Ref": "ArchiveBucket"}}},
    ),
    (what_is_named_may_be_used, f"{ENVIRONMENT}.SLUICE_CLAIM_BUCKET", {"Ref": "ArchiveBucket"}),
    (what_is_named_may_be_used, f"{ENVIRONMENT}.SLUICE_ACCOUNT_SECRETS", "pk_0123456789"),
    (what_is_named_may_be_used, "Parameters.AllowedOrigins.NoEcho", True),
    (secrets_stay_in_the_secret, f"{ENVIRONMENT}.KEY", "{{resolve:secretsmanager:keys}}"),
    (secrets_stay_in_the_secret, "Resources.SealingSecret.Properties", {"SecretString": "{}"}),
    (functions_have_no_dead_letter_queue, "Resources.RejectFunction.Properties.DeadLetterConfig", {}),
    (alarms_see_dead_letters, "Resources.EventsQueueAgeAlarm.Properties.MetricName", "NumberOfMessagesSent"),
    (alarms_see_dead_letters, "Resources.RejectedDeadLetterVisibleAlarm.Properties.Dimensions", []),
    (data_is_encrypted_and_private, "Resources.RejectedQueue.Properties.SqsManagedSseEnabled", False),
    (data_is_encrypted_and_private, "Resources.StateTable.Properties.SSESpecification", {}),
    (
        data_is_encrypted_and_private,
        "Resources.ClaimBucket.Properties.PublicAccessBlockConfiguration.BlockPublicAcls",
        False,
    ),
    (
        claims_outlive_their_messages,
        "Resources.ClaimBucket.Properties.LifecycleConfiguration.Rules.0.ExpirationInDays",
        14,
    ),
    (
        claims_outlive_their_messages,
        "Resources.ClaimBucket.Properties.LifecycleConfiguration.Rules.1.Prefix",
        "",
    ),
    (alarms_see_dead_letters, "Resources.OpenCircuitsAlarm.Properties.MetricName", "CircuitsOpened"),
    (alarms_see_dead_letters, "Resources.EventsInFlightAlarm.Properties.Dimensions", []),
    (alarms_see_dead_letters, "Resources.SourcesLoadFailuresAlarm.Properties.MetricName", "FailedRequests"),
    (alarms_see_dead_letters, "Resources.ApiFaultsAlarm.Properties.MetricName", "4XXError"),
    (alarms_come_before_sqs_stops, "Resources.EventsInFlightAlarm.Properties.Threshold", 120_000),
    (ticks_are_not_repeated, "Resources.ResumeSchedule.Properties.Targets.0.RetryPolicy", {}),
    (what_cannot_be_made_again_is_kept, "Resources.SealingSecret.DeletionPolicy", "Delete"),
    (what_cannot_be_made_again_is_kept, "Resources.EventsQueue.UpdateReplacePolicy", "Delete"),
]


def breach(template: Template, path: str, value: Any) -> Template:
    broken = copy.deepcopy(template)
    *parents, last = path.split(".")
    place: Any = broken
    for step in parents:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[int(last) if isinstance(place, list) else last] = value
    return broken


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_template_keeps(rule: Rule, expanded: Template) -> None:
    assert list(rule(expanded)) == []


@pytest.mark.parametrize(("rule", "path", "value"), BREACHES)
def test_a_breach_is_found(rule: Rule, path: str, value: Any, expanded: Template) -> None:
    assert list(rule(breach(expanded, path, value)))


def test_every_rule_has_been_seen_to_find_something() -> None:
    assert {rule.__name__ for rule, _, _ in BREACHES} == {rule.__name__ for rule in RULES}


def test_mappings_are_written_out(source: Template, expanded: Template) -> None:
    """Checks that there is no `Events: SQS`, which would attach a policy on every queue of the account."""
    assert of_type(source, MAPPING).keys() == of_type(expanded, MAPPING).keys()


def test_every_parameter_says_what_it_is_and_is_bounded(source: Template) -> None:
    for name, parameter in source["Parameters"].items():
        assert parameter.get("Description"), name
        assert "Default" in parameter, name
        if parameter["Type"] == "Number":
            assert "AllowedValues" in parameter or {"MinValue", "MaxValue"} <= parameter.keys(), name
