# A server with the S3 protocol, which keeps everything in memory.
FROM python:3.11-slim-bookworm
RUN pip install --no-cache-dir --quiet "moto[s3,server]>=5.1,<6"
USER 1000:1000
EXPOSE 9000
ENTRYPOINT ["moto_server", "--host", "0.0.0.0", "--port", "9000"]
