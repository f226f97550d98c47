"""Writes the results as tables for people, as a picture, and as bars that are met or not."""

from typing import Any, Final

from benchmarks import first_webhook
from benchmarks.singles import ROUNDS
from sluice.delivery.rate_limiter import BACKGROUND_MAX_LOAD

type Results = dict[str, Any]
type Bar = tuple[str, str, bool]

INVOCATION: Final = "10000"  # messages at most, and so events of producers who send them one by one

_SLUICE: Final = "Sluice, both functions together"
_MIB: Final = 2**20


def bars(results: Results) -> list[Bar]:
    """Returns each bar, the measured value, and whether it is met."""
    hot = results["hotpath"]
    ours, grouped, peers = hot["ungrouped"], hot["grouped"], hot["peers"]
    warm = results["singles"]["warm"]["single event, without calls to AWS"]["p50"]
    found = [
        _at_least("hot path, events a second on one core", ours["events_per_second"], 60_000),
        _at_least("a bulk body that is grouped, events a second", grouped["events_per_second"], 100_000),
        *_times_peer("Segment's", ours, _named(peers, "Segment"), 1.25),
        *_times_peer("the Python SDK's", ours, _named(peers, "Python"), 10),
        *(_beside_floor(name, each) for name, each in (("ungrouped", ours), ("grouped", grouped))),
        _at_most(
            "ingest of a bulk body beside orjson.loads",
            ours["seconds"]["ingest"] / ours["seconds"]["loads"],
            4,
            " times",
        ),
        _at_least("bytes saved by grouping", 100 * (1 - ours["bytes_sent"] / ours["bytes_in"]), 20, " %"),
        _at_least(
            "10,000 single messages decoded, packed, written, events a second",
            hot["singles"]["events_per_second"],
            60_000,
        ),
        _at_most("memory of a batch of 10,000 events", hot["singles"]["memory"] / _MIB, 200, " MiB"),
        _at_most("a single event in ingest, warm, without calls to AWS", warm, 0.3, " ms"),
    ]
    limited = results["saturation"]["limited"]
    found += [
        _at_least("requests used of those allowed, real sockets", 100 * limited["used"], 98, " %"),
        _at_least("fill of the jobs at saturation", 100 * limited["fill"], 99, " %"),
        _at_most("429s at saturation", limited["throttles"], 0),
    ]
    backlog = results["scale"]["backlogs"][-1]
    if backlog["used"] is not None:
        found += [
            _at_least("requests used of those allowed, simulated backlog", 100 * backlog["used"], 98, " %"),
            _at_least("fill of the jobs, simulated backlog", 100 * backlog["fill"], 99, " %"),
        ]
    return found + _scale_bars(results["scale"]) + _background_bars(results["background"])


def _background_bars(background: Results) -> list[Bar]:
    what = f"while {background['imported']:,} events are imported"
    found = []
    for each in background["loads"]:
        load = f"{100 * each['load']:g} % of the limit"
        if each["load"] <= BACKGROUND_MAX_LOAD:
            found.append(_at_most(f"{what}: live events, {load}, delivered, p99", each["live_p99"], 10, " s"))
        else:
            jobs = each["background_jobs_per_minute"]
            found.append(_at_most(f"{what}: their jobs a minute with live events at {load}", jobs, 1.1))
    return found


def _beside_floor(name: str, ours: Results) -> Bar:
    what = f"hot path beside the floor, {name} body, each call after a garbage collection"
    text, measured, met = _at_most(what, _ratio(ours), 2.5, " times")
    return text, f"{measured}; {_ratio(ours, 'seconds_warm'):.2f} in a tight loop without the collector", met


def _scale_bars(scale: Results) -> list[Bar]:
    packing, backlogs = scale["packing"], scale["backlogs"]
    sizes = list(packing)
    most, fewest, batch = (packing[size] for size in (sizes[-1], sizes[0], INVOCATION))

    def times(name: str, of: Results, beside: Results) -> float:
        return float(of[name] / beside[name])

    what = f"packing {int(sizes[-1]):,} events at once beside"
    by_few, by_batch = f"{int(sizes[0]):,} at a time", f"{int(INVOCATION):,} at a time, an invocation's most"
    first, last = backlogs[0], backlogs[-1]
    return [
        _at_most(
            f"{what} {by_few}: the interpreter's instructions an event",
            times("instructions_per_event", most, fewest),
            1.01,
            " times",
        ),
        _at_most(
            f"{what} {by_batch}: time an event in the program",
            times("program_microseconds", most, batch),
            1.25,
            " times",
        ),
        _at_most(
            f"{what} {by_few}, which the processor's cache holds: time an event in the program",
            times("program_microseconds", most, fewest),
            2,
            " times",
        ),
        _at_most(
            f"{what} {by_few}: all time an event, of the system and the garbage collector, too",
            times("microseconds_with_collector", most, fewest),
            3,
            " times",
        ),
        _at_most(f"{what} {by_batch}: memory an event", times("bytes_per_event", most, batch), 1.1, " times"),
        _at_most(
            f"memory to drain {last['events']:,} waiting messages beside {first['events']:,}",
            times("bytes", last, first),
            1.1,
            " times",
        ),
    ]


def markdown(results: Results) -> str:
    """Writes the whole report."""
    machine = results["machine"]
    parts = [
        "# Benchmarks",
        "",
        "`make bench` writes this page. [benchmarks.json](benchmarks.json) has the numbers with more digits. "
        "Measured " + machine["when"] + " on " + machine["words"] + ". " + machine["versions"] + ".",
        "",
        "Times are processor time on one core: the best of several rounds, in which all contestants alternate. "
        "The corpus is 1,000 Placed Orders of about 800 bytes, with ten properties each, of 250 profiles, from a "
        "fixed seed ([benchmarks/corpus.py](../benchmarks/corpus.py)).",
        "",
        "![Events a second on one core](benchmarks.svg)",
        "",
        "## Bars",
        "",
        *_table(
            ("", "Measured", "Bar"),
            [("met" if met else "**not met**", text, bar) for bar, text, met in bars(results)],
            order=(0, 2, 1),
        ),
        "",
        *_hotpath(results["hotpath"]),
        *_singles(results["singles"]),
        *_saturation(results["saturation"]),
        *_scale(results["scale"]),
        *_waste(results["waste"]),
        *_rate_left(results["rate_left"]),
        *_background(results["background"]),
        *_cost(results["cost"]),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _hotpath(hot: Results) -> list[str]:
    ours, grouped = hot["ungrouped"], hot["grouped"]
    floor = ours["seconds"]["floor"]
    rows = [
        (
            "floor: `orjson.loads` and `orjson.dumps` once",
            1_000 / floor,
            ours["bytes_in"],
            ours["floor_memory"],
        ),
        (f"**{_SLUICE}**", ours["events_per_second"], ours["bytes_sent"], ours["memory"]),
        ("· ingest alone", 1_000 / ours["seconds"]["ingest"], ours["bytes_queued"], ours["ingest_memory"]),
        (
            "· dispatch alone",
            1_000 / ours["seconds"]["dispatch"],
            ours["bytes_sent"],
            ours["dispatch_memory"],
        ),
        (
            "Sluice, both, body grouped by its caller",
            grouped["events_per_second"],
            grouped["bytes_sent"],
            grouped["memory"],
        ),
    ]
    lines = [_row(name, rate, sent, memory) for name, rate, sent, memory in rows]
    for name, peer in hot["peers"].items():
        lines.append(
            (name, f"not run: {peer['failed']}", "", "")
            if "failed" in peer
            else _row(name, peer["events_per_second"], peer["bytes_sent"], peer["memory"])
        )
    steps = " + ".join(f"{name} {each:.2f}" for name, each in ours["steps"].items())
    singles = hot["singles"]
    return [
        "## Hot path",
        "",
        "It leads from a caller's bytes to the bytes sent upstream, without sockets. The body has an entry for "
        "each event, as senders that do not group write it; Sluice groups it by profile. Sluice checks every rule of "
        "the API, stamps ids, and goes through the queue's form in between.",
        "",
        *_table(("", "Events a second", "Bytes sent", "Memory"), lines),
        "",
        f"Sluice's µs an event, in one pass: {steps} = {sum(ours['steps'].values()):.2f}. A function that "
        "is called alone finds other caches, so the two functions alone add up to a little more or less. "
        f"{singles['events']:,} messages of one event, decoded, packed and written: "
        f"{singles['events_per_second']:,.0f} events a second in {singles['jobs']} jobs, "
        f"{singles['memory'] / _MIB:.0f} MiB.",
        "",
        "Each call follows a garbage collection, so it finds caches as cold as a request does after other work. "
        "In a tight loop over the same body, without the collector, the floor gains more from warm caches than Sluice "
        "does, because all of it is native code. Both figures are among the [bars](#bars). Memory is the most by which "
        "the process grows for the 1,000 events, after it has done the same with two. So modules and objects that are "
        "made once are not counted.",
        "",
        "The contestants:",
        "",
        "- `klaviyo-api` 25 builds its models from the same body and writes the request.",
        "- `klaviyo-api` 23 takes camelCase models, so renaming is part of it.",
        "- Segment's batch of its Track Event action runs mapping, validation and request. It is 3.497.0, with "
        "`fast-uri` 3.1.0, because the newer one refuses every event, and with an existing version of "
        "`client-kinesis`, which is not used here.",
        "- `dtex` is an extract-load tool. Its Klaviyo destination makes bulk bodies from records, with an entry for "
        "each event.",
        "",
        "None of them checks all of the API's rules, and none has a queue in between.",
        "",
    ]


def _singles(singles: Results) -> list[str]:
    warm = [(name, f"{each['p50']:.2f}", f"{each['p99']:.2f}") for name, each in singles["warm"].items()]
    cold = singles["cold"]
    start = (
        f"Not measured: {cold['failed']}."
        if "failed" in cold
        else f"From a cold start to the first answer, in the real Runtime Interface Emulator: "
        f"{cold['ingest']:.0f} ms; a handler that does nothing but SendMessage: {cold['only SendMessage']:.0f} ms."
    )
    return [
        "## One request in ingest",
        "",
        f"The whole handler, with Powertools, in milliseconds by the clock: medians of {ROUNDS} rounds. AWS is a "
        "fake on the loopback interface, in a process of its own.",
        "",
        *_table(("", "p50", "p99"), warm),
        "",
        start,
        "",
        "The first webhook of a process also pays for the modules that no other route needs and for the sources "
        "document. As `put` stores it, it has a "
        "[normalised form](adr/0039-the-sources-document-is-declared-in-pydantic.md), and pydantic is not "
        "needed. A document that came to the bucket in another way is validated. In milliseconds of processor "
        "time:",
        "",
        *_table(("First webhook", "As stored", "Validated", "Ratio"), _first_webhooks(singles)),
        "",
    ]


def _first_webhooks(singles: Results) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{each[first_webhook.STORED]:.0f}",
            f"{each[first_webhook.VALIDATED]:.0f}",
            f"{each[first_webhook.VALIDATED] / each[first_webhook.STORED]:.2f}",
        )
        for name, each in singles["first_webhook"].items()
    ]


def _saturation(saturation: Results) -> list[str]:
    rows = [
        (
            name,
            f"{each['seconds']:.0f}",
            str(each["requests"]),
            f"{100 * each['used']:.1f} %" if name == "limits on" else "",
            f"{100 * each['fill']:.1f} %",
            f"{each['events_per_second']:,.0f}",
            str(each["throttles"]),
        )
        for name, each in (("limits on", saturation["limited"]), ("limits off", saturation["unlimited"]))
    ]
    return [
        "## Saturation",
        "",
        "The real dispatch and its HTTP client send to the fake upstream over a real socket. The fake upstream counts "
        "the requests. With its limits off, it and two workers share the machine's processors, and it checks every "
        "event, so the figure is a lower bound.",
        "",
        *_table(("", "Seconds", "Requests", "Of those allowed", "Fill", "Events a second", "429s"), rows),
        "",
    ]


def _scale(scale: Results) -> list[str]:
    first = next(iter(scale["packing"].values()))

    def beside_first(row: Results, name: str) -> str:
        return f"{row[name]:.2f} ({row[name] / first[name]:.2f})"

    packing = [
        (
            f"{int(size):,}",
            f"{each['instructions_per_event']:.1f}",
            beside_first(each, "program_microseconds"),
            f"{each['system_microseconds']:.2f}",
            beside_first(each, "microseconds_with_collector"),
            f"{each['bytes_per_event']:,.0f}",
        )
        for size, each in scale["packing"].items()
    ]
    backlogs = [
        (
            f"{each['events']:,}",
            f"{each['delivered']:,}",
            f"{each['simulated_seconds'] / 60:.1f}",
            f"{each['requests']:,}",
            "" if each["used"] is None else f"{100 * each['used']:.1f} %",
            f"{100 * each['fill']:.1f} %",
            str(each["throttles"]),
            f"{each['receives_per_message']:.2f}",
            f"{each['bytes'] / _MIB:.0f} MiB",
        )
        for each in scale["backlogs"]
    ]
    return [
        "## Scale",
        "",
        "The same events are packed and their jobs written, so many at a time. Times are in µs an event; in brackets "
        "is the ratio to the first row. The work is flat: Python's interpreter carries out as many instructions for "
        "an event among a million as for one among a thousand. Memory is flat, too. Time is not, for three reasons:",
        "",
        "- In the program it grows until the objects made of the events have outgrown the processor's caches.",
        "- The system has to provide memory that was not used before.",
        "- The garbage collector looks through all objects again and again.",
        "",
        "An invocation gets 10,000 messages at most.",
        "",
        *_table(
            (
                "Events at a time",
                "Instructions an event",
                "µs in the program",
                "in the system",
                "all, with the collector",
                "Bytes of memory an event",
            ),
            packing,
        ),
        "",
        "The real dispatch drains backlogs of single events in simulated time. Memory is the most by which the process, "
        "with queue and fake upstream in it, grows beyond the waiting messages. It is the memory of the batches being "
        "processed, however many messages wait behind them.",
        "",
        *_table(
            (
                "Waiting",
                "Delivered",
                "Minutes",
                "Requests",
                "Of those allowed",
                "Fill",
                "429s",
                "Receives a message",
                "Memory",
            ),
            backlogs,
        ),
        "",
    ]


def _waste(waste: Results) -> list[str]:
    counts = list(next(iter(waste.values())))
    rows = [(name, *(str(each[bad]["requests"]) for bad in counts)) for name, each in waste.items()]
    return [
        "## Waste",
        "",
        "The table counts upstream requests until all good events of a full job are delivered, by the number of its "
        "1,000 events that the upstream refuses, and by the events that it names.",
        "",
        *_table(("", *(f"{bad} bad" for bad in counts)), rows),
        "",
        "The others do this, by their source. Segment marks the events that Klaviyo points at as failed and the rest "
        "as to be retried, and leaves the retry to its platform. `klaviyo-api` raises and `dtex` fails the stream, so "
        "the caller has to handle the whole request again. Sending one event a request needs no search, but takes "
        "1,000 requests.",
        "",
    ]


def _rate_left(ways: Results) -> list[str]:
    return [
        "## Rate left by others",
        "",
        "Other clients of an account use its rate, too. The table shows, for a simulated hour with more to send "
        "than fits, what share of the requests that others leave is used, and how many 429s it costs to learn "
        "what they leave ([benchmarks/rate_left.py](../benchmarks/rate_left.py)). Klaviyo's answers say in "
        "`RateLimit-*` headers what is left of the minute. The last columns are without these headers.",
        "",
        *_table(
            ("Left by others", "Used", "429s in an hour", "Used without headers", "429s in an hour"),
            [
                (name, *_use(each["with_headers"]), *_use(each["without_headers"]))
                for name, each in ways.items()
            ],
        ),
        "",
        "Without the headers only a 429 tells what is left, and only of its own minute. A rest that grew shows "
        "when more is tried, and each trial may be a 429. So no client can use a rest that is another in each "
        "minute and have few 429s: it would have to meet the limit in each of them. Sluice tries again after "
        "two minutes, then ever less often, up to a quarter of an hour.",
        "",
    ]


def _background(background: Results) -> list[str]:
    return [
        "## Live events beside an import",
        "",
        f"{background['imported']:,} imported events wait on BackgroundQueue, and live events come one by one, at "
        "random times. Both are delivered by the real dispatch in simulated time, with the template's default "
        "window of 5 s and answers after 0.3 s, for five minutes after two of warming up. A load of 100 % is 150 "
        "full jobs a minute, which is a little more than slots allow. Seconds are from sending a live event to "
        "its arrival at Klaviyo ([benchmarks/background.py](../benchmarks/background.py)).",
        "",
        *_table(
            (
                *("Live load", "Live events", "p50", "p99", "Live jobs a minute"),
                *("Background jobs a minute", "Background events a minute", "Windows above the limit"),
            ),
            [
                (
                    f"{100 * each['load']:g} %",
                    f"{each['live_events']:,}",
                    f"{each['live_p50']:.1f} s",
                    f"{each['live_p99']:.1f} s",
                    f"{each['live_jobs_per_minute']:.1f}",
                    f"{each['background_jobs_per_minute']:.1f}",
                    f"{each['background_events_per_minute']:,.0f}",
                    str(each["above_limit"]),
                )
                for each in background["loads"]
            ],
        ),
        "",
    ]


def _use(use: Results) -> tuple[str, str]:
    return f"{100 * use['share']:.1f} %", str(use["throttles"])


def _cost(cost: Results) -> list[str]:
    ways = cost["ways"]
    parts = next(iter(ways.values()))["dollars"]
    dollars = [
        (name, *(f"{each:.4f}" for each in way["dollars"].values()), f"**{way['total']:.3f}**")
        for name, way in ways.items()
    ]
    counted = {
        "API requests": "api_requests",
        "Messages": "messages",
        "Bytes of one": "message_bytes",
        "SQS requests": "sqs_requests",
        "Writes": "writes",
        "Reads": "reads",
        "Requests upstream": "upstream_requests",
    }
    counts = [
        (name, *(f"{way['counts'][count]:,.0f}" for count in counted.values())) for name, way in ways.items()
    ]
    return [
        "## Cost",
        "",
        "US dollars for a million events, by the way they come in. The rows below the routes are of producers, whose "
        "events dispatch checks. Prices are on demand, as listed for "
        f"{cost['assumed']['prices']}, no free tier.",
        "",
        *_table(("", *parts, "total"), dollars),
        "",
        "They follow from these counts of the same million:",
        "",
        *_table(("", *counted), counts),
        "",
        "- Messages and items are counted as the code writes them for the corpus. SQS's requests are in units of 64 KB, "
        "writes to DynamoDB in units of 1 KB. `SendMessageBatch` has messages of one event, like SNS and EventBridge.",
        "- The processor times of the route's handler and of dispatch are measured here. A call from a function to a "
        f"service is taken as {cost['assumed']['service_call_ms']:.0f} ms.",
        "- Jobs are full, and each message is received once with nine others. One dispatch worker waits for slots all "
        "the time, at Klaviyo's limit or at an app's 120 calls a minute. This wait is most of the cost of Pipeless.",
        "- SQS's requests for messages with a message group, which Sluice's own have, are taken as $0.10 a million "
        "dearer. Messages that SNS and EventBridge put on the queue are counted as sent by SQS, too.",
        "- Logs, metrics, storage, retries, empty receives and refused events are left out.",
        "",
    ]


def svg(results: Results) -> str:
    """Draws bars of events a second, readable on a light and on a dark page."""
    hot = results["hotpath"]
    ours = hot["ungrouped"]
    floor, sluice = "JSON read and written, no more", "Sluice"
    rates = {
        floor: corpus_rate(ours["seconds"]["floor"]),
        sluice: ours["events_per_second"],
        **{
            name: peer["events_per_second"]
            for name, peer in hot["peers"].items()
            if "events_per_second" in peer
        },
    }
    widest = max(rates.values())
    row, left, width = 30, 300, 720
    height = row * len(rates) + 44
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="Events a second on one core">',
        "<style>text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600}.o{fill:#8c959f}"
        ".f{fill:#c4cbd3}.s{fill:#1a7f5a}@media(prefers-color-scheme:dark){text{fill:#e6edf3}"
        ".o{fill:#6e7681}.f{fill:#484f58}.s{fill:#3fb98a}}</style>",
        '<text class="t" x="8" y="20">Events a second on one core, from bytes to bytes</text>',
    ]
    for index, (name, rate) in enumerate(sorted(rates.items(), key=lambda each: -each[1])):
        y = 34 + row * index
        kind = {floor: "f", sluice: "s"}.get(name, "o")
        length = max(2.0, rate / widest * (width - left - 90))
        label = name.replace("'", "&#39;")
        lines += [
            f'<text x="{left - 10}" y="{y + 16}" text-anchor="end">{label}</text>',
            f'<rect class="{kind}" x="{left}" y="{y}" width="{length:.0f}" height="22" rx="3"/>',
            f'<text x="{left + length + 8:.0f}" y="{y + 16}">{rate:,.0f}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def corpus_rate(seconds: float) -> float:
    """Returns the events of the corpus a second."""
    return 1_000 / seconds


def _row(name: str, rate: float, sent: int, memory: int) -> tuple[str, ...]:
    return name, f"{rate:,.0f}", f"{sent:,}", f"{memory / _MIB:.1f} MiB"


def _table(head: tuple[str, ...], rows: list[Any], order: tuple[int, ...] | None = None) -> list[str]:
    order = order or tuple(range(len(head)))
    lines = [[head[index] for index in order], ["---"] * len(head)]
    lines += [[row[index] for index in order] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _ratio(ours: Results, seconds: str = "seconds") -> float:
    return float(ours[seconds]["whole"] / ours[seconds]["floor"])


def _named(peers: Results, part: str) -> Results:
    return next((peer for name, peer in peers.items() if part in name), {})


def _times_peer(name: str, ours: Results, peer: Results, factor: float) -> list[Bar]:
    if "events_per_second" not in peer:
        return []
    times = ours["events_per_second"] / peer["events_per_second"]
    return [_at_least(f"hot path beside {name}", times, factor, " times")]


def _at_least(what: str, value: float, bar: float, unit: str = "") -> Bar:
    return f"{what}: at least {_number(bar)}{unit}", f"{_number(value)}{unit}", value >= bar


def _at_most(what: str, value: float, bar: float, unit: str = "") -> Bar:
    return f"{what}: at most {_number(bar)}{unit}", f"{_number(value)}{unit}", value <= bar


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 or value == int(value) else f"{value:.2f}"
