"""Find out which addresses a pod can reach, by connecting from inside the pod."""

import json

from tests.e2e.kube import Namespace

Address = tuple[str, int]
PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def connects(address):
    try:
        socket.create_connection(address, timeout=3).close()
    except OSError:
        return False
    return True

addresses = [tuple(address) for address in json.load(sys.stdin)]
with ThreadPoolExecutor(64) as pool:
    print(json.dumps([address for address, open in zip(addresses, pool.map(connects, addresses)) if open]))
"""


def reached(namespace: Namespace, pod: str, addresses: set[Address]) -> set[Address]:
    """Return those of the addresses that accept a connection from the pod."""
    answer = namespace.exec(pod, "python", "-c", PROBE, stdin=json.dumps(sorted(addresses)))
    return {(host, port) for host, port in json.loads(answer)}


def listening(namespace: Namespace, pod: dict) -> set[Address]:
    """Return the addresses on which a pod listens, except for loopback, from the kernel's table."""
    table = namespace.exec(pod["metadata"]["name"], "cat", "/proc/net/tcp", "/proc/net/tcp6")
    rows = [line.split() for line in table.splitlines()]
    local = [row[1].split(":") for row in rows if row[3] == "0A"]  # TCP_LISTEN
    loopback = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    return {(pod["status"]["podIP"], int(port, 16)) for host, port in local if host not in loopback}


def api_server() -> Address:
    """Return the address of the API server's Service, which any pod can reach unless all its traffic is denied."""
    return Namespace("default").get("service", "kubernetes")["spec"]["clusterIP"], 443
