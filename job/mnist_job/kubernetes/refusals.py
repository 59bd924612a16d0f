"""Explain errors of the Kubernetes API in one sentence, with what to do about them."""

import json
import re
import ssl
from typing import Any

from mnist_job.kubernetes.kubeconfig import line

_MAY_NOT = re.compile(
    r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)")?'
)


def missing_right(text: str) -> str | None:
    """Return a sentence that says which right is missing and who needs it, or None if `text` is another error."""
    if refused := _MAY_NOT.search(text):
        if refused["user"] == "system:anonymous":
            return "the cluster does not know the user: the kubeconfig's user has no credentials; log in to it again"
        resource = ".".join(filter(None, (refused["resource"], refused["group"])))
        kind = "Role" if refused["namespace"] else "ClusterRole"
        place = f" in namespace {refused['namespace']}" if refused["namespace"] else ""
        return (
            f"{refused['user']} may not {refused['verb']} {resource}{place}; "
            f"ask for a {kind} that has this verb for this resource"
        )
    if "attempting to grant RBAC permissions not currently held" in text:
        rights = " ".join(re.findall(r"\{APIGroups.*?\}", text))
        return f"you cannot give the job's pods rights that you do not have; ask for these: {rights}"
    return None


def refusal(failure: Any) -> str:
    """Return the message of an ApiException."""
    try:
        message = str(json.loads(failure.body)["message"])
    except (TypeError, ValueError, KeyError):
        message = ""
    told = missing_right(message) or f"{failure.status} {failure.reason}{message and f': {message}'}"
    return f"{told}; log in to the cluster again" if failure.status == 401 else told


def certificate(failure: BaseException) -> str | None:
    """Return why the TLS connection failed, or None if this is another failure."""
    # The client raises an ApiException without a status or, if its own certificate files are wrong, an SSLError.
    of_client = getattr(failure, "status", None) == 0 and "SSLError" in str(getattr(failure, "reason", ""))
    if not (of_client or isinstance(failure, ssl.SSLError)):
        return None
    text = line(str(getattr(failure, "reason", None) or failure)).removeprefix("SSLError ")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = re.sub(r".*certificate verify failed: | \(_ssl.*", "", text)
        return (
            f"its certificate is not trusted: {why}; the kubeconfig's server and certificate-authority have to be "
            "those of this cluster: get a new kubeconfig"
        )
    return (
        f"no TLS connection: {text}; check the kubeconfig's server and its user's client-certificate, or log in again"
    )
