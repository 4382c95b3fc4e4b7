// Python binding of the reader of Kafka's record batches.
#include "bytes/kafka_records.hpp"

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"

namespace {

using namespace monolith;

// Return (offset, event time, value) of each record from the `start`th byte of `data` on.
nb::list kafka_records(const nb::bytearray& data, size_t start, size_t num_records, int64_t base_offset,
                       int64_t first_ms, int64_t append_ms, const nb::bytes& time_header) {
    if (start > data.size()) refuse("start must be within the batch, got " + std::to_string(start));
    const std::string_view bytes(static_cast<const char*>(data.data()) + start, data.size() - start);
    KafkaRecords reader(bytes, {num_records, base_offset, first_ms, append_ms},
                        {time_header.c_str(), time_header.size()});
    std::vector<KafkaRecord> records;
    if (!reader.read(records))
        refuse("a batch must be " + std::to_string(num_records) + " whole records, got " +
               std::to_string(bytes.size()) + " bytes");
    nb::list list;
    for (const auto& [offset, time_ms, value] : records)
        list.append(nb::make_tuple(offset, time_ms, nb::bytes(value.data(), value.size())));
    return list;
}

}  // namespace

void bind_kafka_records(nb::module_& m) {
    using namespace nb::literals;
    m.def("kafka_records", &kafka_records, "data"_a, "start"_a, "num_records"_a, "base_offset"_a, "first_ms"_a,
          "append_ms"_a, "time_header"_a);
}
