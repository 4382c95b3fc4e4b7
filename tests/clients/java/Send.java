import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Properties;
import monolith.v1.Example.Action;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Sends actions with Kafka's own client: its default partitioner is murmur2 of the key. Fields of a line are separated by tabs. */
public final class Send {
    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("acks", "all");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        try (KafkaProducer<String, byte[]> producer = new KafkaProducer<>(settings, new StringSerializer(), new ByteArraySerializer())) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String[] one = line.split("\t");
                long timeMs = Long.parseLong(one[3]);
                Action action = Action.newBuilder()
                    .setRequestId(one[0])
                    .setItemId(Long.parseLong(one[1]))
                    .setKind(one[2])
                    .setTimeMs(timeMs)
                    .setValue(Float.parseFloat(one[4]))
                    .build();
                producer.send(new ProducerRecord<>(arguments[1], null, timeMs, one[0], action.toByteArray())).get();
            }
        }
    }
}
