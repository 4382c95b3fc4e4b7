#!/usr/bin/env bash
# kafka-python 3.0.12 repeats a wrong SASL password until its bootstrap times out.
#
# A broker (Apache Kafka 4.3.1) answers SaslAuthenticate with error 58 and closes the connection. kafka-python drops what it has received
# when the end of the connection is read in the same turn (KafkaTCPTransport._read_from_sock), and KafkaConnection.initialize keeps the error to
# itself even when it is seen, so KafkaConnectionManager._auth_failures, made to stop at once, stays empty.
# Consequence: a wrong password looks like a broker that is away ("Unable to bootstrap"), after the whole bootstrap_timeout_ms.
#
# Output seen (2026-11-30):
#   kafka-python 3.0.12: KafkaTimeoutError after 5.0 s: KafkaTimeoutError: Unable to bootstrap from ['127.0.0.1:39092']
#   attempts: 6
#
# Needs Java 17, Maven and Python 3.11. Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $broker 2>/dev/null; rm -rf "$folder"' EXIT
broker=""
cd "$folder"
python3 -m venv venv
venv/bin/pip -q install kafka-python==3.0.12
cat > pom.xml <<'POM'
<project><modelVersion>4.0.0</modelVersion><groupId>finding</groupId><artifactId>finding</artifactId><version>1</version>
<dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.3.1</version></dependency></dependencies></project>
POM
mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib
cat > server.properties <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:39093
listeners=SASL_PLAINTEXT://127.0.0.1:39092,CONTROLLER://127.0.0.1:39093
advertised.listeners=SASL_PLAINTEXT://127.0.0.1:39092,CONTROLLER://127.0.0.1:39093
listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=SASL_PLAINTEXT
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="b" password="b" user_b="b" user_shop="right";
log.dirs=$folder/data
PROPERTIES
java -cp 'lib/*' kafka.tools.StorageTool format --standalone -t bW9ub2xpdGgtcHkta3JhZg -c server.properties > /dev/null 2>&1
java -Xmx512m -cp 'lib/*' kafka.Kafka server.properties > broker.log 2>&1 &
broker=$!
venv/bin/python - <<'PYTHON'
import io, logging, socket, sys, time
import kafka

while True:
    try:
        socket.create_connection(("127.0.0.1", 39092), 1).close()
        break
    except OSError:
        time.sleep(0.2)
lines = io.StringIO()
logging.basicConfig(level=logging.DEBUG, stream=lines)
started_s = time.monotonic()
name = ""
try:
    kafka.KafkaAdminClient(
        bootstrap_servers=["127.0.0.1:39092"], security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN",
        sasl_plain_username="shop", sasl_plain_password="wrong", bootstrap_timeout_ms=5_000,
    )
except kafka.errors.KafkaError as error:
    name = type(error).__name__
    print(f"kafka-python {kafka.__version__}: {name} after {time.monotonic() - started_s:.1f} s: {error}")
attempts = lines.getvalue().count("Initializing connection")
print(f"attempts: {attempts}")
sys.exit(not (name == "KafkaTimeoutError" and attempts > 1))
PYTHON
