# Trains and uses networks: for CPUs, or with `--build-arg EXTRAS=train,cuda12` for NVIDIA GPUs.
#   docker build -t resnet .
#   mkdir -p runs && docker run --rm --user $(id -u) -v $PWD/runs:/app/runs resnet --config=configs/rendered.py --workdir=runs/demo
FROM python:3.12-slim

ARG EXTRAS=train

RUN useradd --create-home --uid 1000 resnet && mkdir /app && chown resnet /app
WORKDIR /app

# Packages change less often than code. Their layer needs no more than the library, which tells its version.
COPY --chown=resnet pyproject.toml README.md LICENSE ./
COPY --chown=resnet resnet ./resnet
RUN pip install --no-cache-dir -e ".[${EXTRAS}]"

COPY --chown=resnet . .
USER resnet
RUN mkdir -p runs data

ENTRYPOINT ["python", "main.py"]
