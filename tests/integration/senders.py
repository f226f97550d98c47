"""Signs and verifies webhooks with the libraries their senders publish, in the environment that has them.

Reads a JSON array of cases from its input: `library`, `secret`, `body`, and either `at` (Unix seconds, to
sign) or `headers` (to verify). Writes an array of headers or verdicts.
"""

import json
import sys
from datetime import UTC, datetime
from typing import Any

import standardwebhooks
import stripe
import svix.webhooks
from standardwebhooks.webhooks import WebhookVerificationError

STANDARD: dict[str, tuple[Any, str]] = {
    "standardwebhooks": (standardwebhooks.Webhook, "webhook"),
    "svix": (svix.webhooks.Webhook, "svix"),
}


def signed(case: dict[str, Any]) -> dict[str, str]:
    secret, body, at = case["secret"], case["body"], case["at"]
    if case["library"] == "stripe":
        header = stripe.WebhookSignature.generate_signature_header(body, secret, at)
        return {"stripe-signature": header}
    webhook, prefix = STANDARD[case["library"]]
    signature = webhook(secret).sign("msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", datetime.fromtimestamp(at, UTC), body)
    return {
        f"{prefix}-id": "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W",
        f"{prefix}-timestamp": f"{at}",
        f"{prefix}-signature": signature,
    }


def accepts(case: dict[str, Any]) -> bool:
    secret, body, headers = case["secret"], case["body"], case["headers"]
    try:
        if case["library"] == "stripe":
            stripe.WebhookSignature.verify_header(body, headers.get("stripe-signature"), secret, 300)
        else:
            webhook, _ = STANDARD[case["library"]]
            webhook(secret).verify(body, headers)
    except (stripe.SignatureVerificationError, WebhookVerificationError, ValueError):
        return False  # a ValueError is of a signature that is no base64
    return True


json.dump([signed(case) if "at" in case else accepts(case) for case in json.load(sys.stdin)], sys.stdout)
