"""Prints deploy/cluster/envoy.yaml as Kubernetes' Envoy has it: `make envoy-config`.

The servers are those of the Service `tidegate-headless`, and every connection is encrypted.
"""

from __future__ import annotations

import re
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[1] / "cluster" / "envoy.yaml"

HEAD = """\
# Made by `make envoy-config` from deploy/cluster/envoy.yaml: change that.
"""
LISTED = """\
      type: EDS
      eds_cluster_config:
        eds_config:
          path_config_source:
            path: /etc/tidegate/endpoints.yaml
            watched_directory: {path: /etc/tidegate}
"""
FOUND = """\
      type: STRICT_DNS # the servers that are ready, as the Service tells
      dns_refresh_rate: 2s
      load_assignment:
        cluster_name: tidegate
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {address: tidegate-headless, port_value: 50051}
"""


def bootstrap(text: str) -> str:
    """The configuration, as YAML."""
    if LISTED not in text:
        raise ValueError(f"{CONFIG} lists its servers in other words than {LISTED!r}")
    _, _, text = text.partition("\n\n")  # what is said to whoever has machines of their own
    text = text.replace(LISTED, FOUND).replace("#tls ", "")
    text = text.replace("sni: tidegate.internal", "sni: tidegate-headless")
    return HEAD + re.sub(r"/etc/tidegate/secrets\b", "/etc/envoy/secrets", text)


if __name__ == "__main__":
    print(bootstrap(CONFIG.read_text()), end="")
