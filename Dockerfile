# The bundled model in NVIDIA's Triton, for any GPU that the release supports, or for the CPU.
#
#   docker build -t lostgan-serve:0.1.0 .
#   docker run --gpus all -p 8000-8002:8000-8002 -v lostgan-plans:/opt/lostgan/plans lostgan-serve:0.1.0
#
# TRITON_TAG  a release with the onnxruntime backend and a Python of constraints.txt
# RES         the resolution of the bundled model to export
# DEVICE      gpu, or cpu for a container that never looks for a GPU (the base image is the same: NVIDIA has one only)
ARG TRITON_TAG=26.07-py3

FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG} AS builder
WORKDIR /build
# a folder of its own: neither the image's Python packages nor their absence matters
ENV PYTHONPATH=/build/packages
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY lostgan_serve lostgan_serve
COPY train train
COPY evaluate evaluate
COPY export export
COPY checkpoints checkpoints
COPY examples examples
RUN python3 -m pip install --no-cache-dir --target /build/packages -c constraints.txt '.[export]'
ARG RES=128
RUN python3 /build/packages/bin/lostgan-serve export --res ${RES} --repository /build/models

FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}
ARG DEVICE=gpu
ENV LOSTGAN_SERVE_DEVICE=${DEVICE}
# a volume that is new takes its owner from here
RUN install --directory --owner=1000 --group=1000 /opt/lostgan/plans
# root's, so that the server cannot change them
COPY deploy/probe.py /opt/lostgan/probe.py
COPY --from=builder /build/models /opt/lostgan/models
COPY deploy/entrypoint.py /opt/lostgan/entrypoint.py
USER 1000:1000
VOLUME /opt/lostgan/plans
EXPOSE 8000 8001 8002
# the first start on a GPU builds a plan, for 15 minutes at most
HEALTHCHECK --interval=10s --timeout=10s --start-period=20m \
    CMD ["python3", "/opt/lostgan/probe.py", "/opt/lostgan/models"]
# in place of NVIDIA's script, which writes to the image's file system; further arguments are tritonserver's
ENTRYPOINT ["python3", "/opt/lostgan/entrypoint.py", "/opt/lostgan/models", "/opt/lostgan/plans"]
