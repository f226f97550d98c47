"""Says what each reason of a rejection means, and what one does about it."""

from typing import Final

from sluice.rejection import Reason

MEANINGS: Final = {
    Reason.MALFORMED: "It could not be read: it is damaged, or no body that Sluice knows.",
    Reason.INVALID: "It breaks a rule of the API, and no caller waited for a refusal.",
    Reason.OVERSIZED: "It is larger than any request that the upstream takes.",
    Reason.REFUSED: "The upstream refused it, in the words above.",
    Reason.DUPLICATE_ID: (
        "The upstream says that it has this unique_id. Sluice had not sent this event before, "
        "so another event has it."
    ),
    Reason.PROBABLY_RECORDED: (
        "An earlier request with it got no answer, and now it is refused without a reason. "
        "The upstream probably has it."
    ),
    Reason.NOT_SEALED: "It has the form of a stored request, and Sluice did not store it.",
    Reason.DEAD_LETTER: "It was tried too often without an outcome, or it ended its process each time.",
}
ADVICE: Final = {
    Reason.MALFORMED: "Find out who sent it. To mend it: sluicectl rejections replay ID --patch FILE.",
    Reason.INVALID: "Mend the marked place: sluicectl rejections replay ID --fault JSON. And the sender.",
    Reason.OVERSIZED: "Make it smaller: sluicectl rejections replay ID --remove POINTER.",
    Reason.REFUSED: (
        "If the marked place is wrong: sluicectl rejections replay ID --fault JSON. If the upstream was: "
        "sluicectl rejections replay ID."
    ),
    Reason.DUPLICATE_ID: (
        "If it is another event, give it an id of its own: "
        "sluicectl rejections replay ID --set /events/0/unique_id=JSON. Else discard it."
    ),
    Reason.PROBABLY_RECORDED: (
        "Look for it upstream. If it is there: sluicectl rejections discard ID --why TEXT. If not, replay it."
    ),
    Reason.NOT_SEALED: "Look who may send to EventsQueue. If it is good, let it be sent as a body again.",
    Reason.DEAD_LETTER: "Find the cause in the log of dispatch first. Then: sluicectl rejections replay ID.",
}
