FROM python:3.11-slim
WORKDIR /src
COPY . .
RUN pip install '.[server]'
# Any CPU of this architecture: an image runs elsewhere than it was built.
RUN tsengine warmup --cpu generic
RUN useradd --system tsengine && mkdir /data && chown tsengine /data
USER tsengine
WORKDIR /
VOLUME /data
EXPOSE 9201
ENV TSENGINE_DATA_DIR=/data TSENGINE_LISTEN=0.0.0.0:9201
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9201/-/healthy')"]
CMD ["tsengine", "serve"]
