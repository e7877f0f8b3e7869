# Images of the three services. From the repository's root, or with `make images`:
#   docker build --target gateway -t fovea-gateway .
# Targets: encoder, llm, gateway, and llm-vllm, the LLM service with vLLM for a GPU.

# Debian or Ubuntu with Python 3.11 or newer, pip and venv.
ARG BASE=python:3.11-slim

# Code of the services as pip installs it. The compiler makes the library of fovea.wire.
FROM ${BASE} AS code
RUN apt-get update -qq \
 && apt-get install -qq --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv --without-pip /opt/venv
WORKDIR /source
COPY . .
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --target /app .

# Packages that the services need. pyproject.toml names them, so that a change of code does not fetch them again.
FROM ${BASE} AS packages
RUN python3 -m venv --without-pip /opt/venv
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY deploy/images/slim.sh /usr/local/bin/slim
RUN grep -v '^torch==' constraints.txt > without-torch.txt

FROM ${BASE} AS service
# A new volume gets the owner of the folder that it is mounted on.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin fovea \
 && mkdir /cache /secrets /redis-secrets \
 && chown fovea:fovea /cache /secrets /redis-secrets
WORKDIR /app
ENV PATH=/app/bin:/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 HF_HOME=/cache

# The gateway reads tokenizers and configurations, never weights.
FROM code AS gateway-code
RUN rm -r /app/encoder_service /app/llm_service /app/lab/checkpoints/*/model.safetensors /app/lab/checkpoints/*/wire.basis

FROM packages AS gateway-packages
RUN pip --python /opt/venv/bin/python install --no-cache-dir --constraint without-torch.txt '.[gateway,otel]' \
 && pip --python /opt/venv/bin/python uninstall --yes fovea hf-xet \
 && slim /opt/venv

FROM service AS gateway
COPY --from=gateway-packages /opt/venv /opt/venv
COPY --from=gateway-code /app /app
COPY deploy/first_secrets.sh deploy/first_secrets.sh
USER 10001
EXPOSE 8000 9464
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=10 CMD ["python", "-m", "fovea.rpc.probe", "http://127.0.0.1:8000/healthz"]
ENTRYPOINT ["python", "-m", "gateway"]

# Encoder service and LLM service share this layer.
FROM packages AS model-packages
# TORCH is the release, TORCH_INDEX the index of its build: https://download.pytorch.org/whl/cpu without a GPU, .../whl/cu130 for
# CUDA 13.0, and so on. Without TORCH_INDEX pip's own index is used; PyPI's build for Linux on x86-64 needs gigabytes of CUDA.
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
RUN pip --python /opt/venv/bin/python install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
RUN pip --python /opt/venv/bin/python install --no-cache-dir --constraint without-torch.txt '.[encoder,llm,otel]' \
 && pip --python /opt/venv/bin/python uninstall --yes fovea \
 && slim /opt/venv

FROM service AS model-service
COPY --from=model-packages /opt/venv /opt/venv

FROM code AS encoder-code
RUN rm -r /app/gateway /app/llm_service

FROM packages AS video-packages
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --constraint constraints.txt --target /opt/video av

FROM model-service AS encoder
COPY --from=video-packages /opt/video /opt/video
ENV PYTHONPATH=/app:/opt/video
COPY --from=encoder-code /app /app
USER 10001
EXPOSE 50051 9464
HEALTHCHECK --interval=5s --timeout=5s --start-period=120s --retries=10 CMD ["python", "-m", "fovea.rpc.probe", "127.0.0.1:50051"]
ENTRYPOINT ["python", "-m", "encoder_service"]

FROM code AS llm-code
RUN rm -r /app/gateway /app/encoder_service

FROM model-service AS llm
COPY --from=llm-code /app /app
USER 10001
EXPOSE 50052 9464
HEALTHCHECK --interval=5s --timeout=5s --start-period=120s --retries=10 CMD ["python", "-m", "fovea.rpc.probe", "127.0.0.1:50052"]
ENTRYPOINT ["python", "-m", "llm_service"]

# vLLM needs the torch that it was built with, and other versions than constraints.txt pins.
FROM packages AS vllm-packages
ARG TORCH_INDEX=
RUN pip --python /opt/venv/bin/python install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} '.[vllm,otel]' \
 && pip --python /opt/venv/bin/python uninstall --yes fovea

# Triton compiles kernels at run time.
FROM service AS llm-vllm
RUN apt-get update -qq \
 && apt-get install -qq --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY --from=vllm-packages /opt/venv /opt/venv
COPY --from=llm-code /app /app
# The root of the files is read-only: what vLLM compiles goes to the volume of the checkpoints.
ENV LLM_ENGINE=vllm LLM_DEVICE=cuda HOME=/tmp VLLM_CACHE_ROOT=/cache/vllm TRITON_CACHE_DIR=/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor FLASHINFER_WORKSPACE_BASE=/cache
USER 10001
EXPOSE 50052 9464
HEALTHCHECK --interval=5s --timeout=5s --start-period=600s --retries=10 CMD ["python", "-m", "fovea.rpc.probe", "127.0.0.1:50052"]
ENTRYPOINT ["python", "-m", "llm_service"]
