"""Ask the service of the party that lives in KOINON_HOME whether it is ready: exit 0 or 1. For container health checks.

    python -m koinon.scripts.health [/v1/status]

prints what the service answers. Standard library only, as it runs every few seconds in every container.
"""

from __future__ import annotations

import os
import ssl
import sys
import tomllib
import urllib.request
from pathlib import Path

TIMEOUT_SECONDS = 3.0


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else "/readyz"
    try:
        home = Path(os.environ["KOINON_HOME"])
        config = tomllib.loads((home / "config.toml").read_text())
        port = int(config["listen"]["port"])
        # The certificate names the host that peers use, not the loopback that this asks: only life is checked here.
        context = ssl._create_unverified_context() if config.get("tls", {}).get("certificate") else None
        scheme = "https" if context else "http"
        url = f"{scheme}://127.0.0.1:{port}{path}"
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS, context=context) as answer:
            print(answer.read().decode(errors="replace"))
    except (OSError, KeyError, ValueError) as error:
        print(f"not ready: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
