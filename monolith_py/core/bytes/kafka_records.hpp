// Records of one batch of Kafka's format 2, after its header and not compressed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

namespace monolith {

struct KafkaRecord {
    int64_t offset;
    int64_t time_ms;         // event time
    std::string_view value;  // empty for null
};

// Header of a batch of records. `append_ms`: time of all of them if the broker gave it, else below 0.
struct KafkaBatch {
    size_t num_records;
    int64_t base_offset;
    int64_t first_ms;
    int64_t append_ms;
};

// Reads the records of a batch. The event time of a record is in its header `time_header`, 8 bytes, big-endian; it is
// the timestamp for a record without one.
class KafkaRecords {
  public:
    KafkaRecords(std::string_view data, const KafkaBatch& batch, std::string_view time_header)
        : at_(data.data()), end_(data.data() + data.size()), batch_(batch), time_header_(time_header) {}

    // Return false if the bytes are not exactly these records.
    bool read(std::vector<KafkaRecord>& records) {
        for (size_t i = 0; i < batch_.num_records; ++i)
            if (!read_record(records.emplace_back())) return false;
        return at_ == end_;
    }

  private:
    bool read_record(KafkaRecord& record) {
        int64_t length = 0, delta_ms = 0, delta = 0;
        std::string_view key;
        if (!number(length) || length < 0 || length > end_ - at_) return false;
        const char* const stop = at_ + length;
        if (length < 1) return false;
        ++at_;  // attributes, without a meaning so far
        if (!number(delta_ms) || !number(delta) || !text(key) || !text(record.value)) return false;
        record.offset = batch_.base_offset + delta;
        record.time_ms = batch_.append_ms >= 0 ? batch_.append_ms : batch_.first_ms + delta_ms;
        if (record.time_ms < 0) record.time_ms = 0;
        return read_headers(record) && at_ == stop;
    }
    bool read_headers(KafkaRecord& record) {
        int64_t num_headers = 0;
        if (!number(num_headers) || num_headers < 0) return false;
        bool has_time = false;
        for (; num_headers > 0; --num_headers) {
            std::string_view name, value;
            if (!text(name) || !text(value)) return false;
            if (has_time || name != time_header_ || value.size() != sizeof(uint64_t)) continue;
            uint64_t time_ms = 0;
            for (char byte : value) time_ms = time_ms << 8 | static_cast<uint8_t>(byte);
            has_time = time_ms <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
            if (has_time) record.time_ms = static_cast<int64_t>(time_ms);
        }
        return true;
    }
    // Read a number in zigzag form.
    bool number(int64_t& value) {
        uint64_t bits = 0;
        for (int shift = 0; at_ != end_ && shift < 64; shift += 7) {
            const auto byte = static_cast<uint8_t>(*at_++);
            bits |= static_cast<uint64_t>(byte & 127) << shift;
            if (byte >= 128) continue;
            value = static_cast<int64_t>(bits >> 1) ^ -static_cast<int64_t>(bits & 1);
            return true;
        }
        return false;
    }
    // Read bytes after their number; none for null.
    bool text(std::string_view& text) {
        int64_t size = 0;
        if (!number(size) || size > end_ - at_) return false;
        if (size < 0) return true;
        text = {at_, static_cast<size_t>(size)};
        at_ += size;
        return true;
    }

    const char* at_;
    const char* end_;
    KafkaBatch batch_;
    std::string_view time_header_;
};

}  // namespace monolith
