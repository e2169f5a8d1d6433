FROM python:3.11-slim
WORKDIR /src
COPY . .
RUN pip install '.[server,s3]'
# Code for any CPU of this architecture: an image runs elsewhere than it was built.
RUN tsengine warmup --cpu generic
# The directory of the data belongs to the user because it is made after USER.
USER nobody
WORKDIR /data
VOLUME /data
EXPOSE 9201
ENV TSENGINE_DATA_DIR=/data TSENGINE_LISTEN=0.0.0.0:9201
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9201/-/healthy')"]
CMD ["tsengine", "serve"]
