// Records of Kafka's batches from broken bytes: refused or read, never past their end.
#include <random>
#include <string>

#include "bytes/kafka_records.hpp"
#include "check.hpp"

namespace {

using namespace monolith;

void put_number(std::string& out, int64_t value) {
    uint64_t bits = static_cast<uint64_t>(value) << 1 ^ static_cast<uint64_t>(value >> 63);
    for (; bits >= 128; bits >>= 7) out.push_back(static_cast<char>(bits | 128));
    out.push_back(static_cast<char>(bits));
}

void put_text(std::string& out, std::string_view text) {
    put_number(out, static_cast<int64_t>(text.size()));
    out.append(text);
}

std::string records(size_t num) {
    std::string all;
    for (size_t i = 0; i < num; ++i) {
        std::string one(1, '\0');
        put_number(one, static_cast<int64_t>(i) - 1);
        put_number(one, static_cast<int64_t>(i));
        put_number(one, -1);
        put_text(one, "value-" + std::to_string(i));
        put_number(one, 1);
        put_text(one, "time");
        put_text(one, std::string_view("\0\0\0\0\0\0\1\2", 8));
        put_text(all, one);
    }
    return all;
}

TEST(records_have_offset_time_and_value) {
    std::vector<KafkaRecord> found;
    const std::string data = records(3);
    CHECK(KafkaRecords(data, {3, 40, 1000, -1}, "time").read(found));
    CHECK(found.size() == 3 && found[2].offset == 42 && found[2].time_ms == 258 && found[2].value == "value-2");
    found.clear();
    CHECK(KafkaRecords(data, {3, 40, 1000, -1}, "other").read(found) && found[0].time_ms == 999);
    found.clear();
    CHECK(!KafkaRecords(data, {2, 40, 1000, -1}, "time").read(found));
    found.clear();
    CHECK(!KafkaRecords(data, {4, 40, 1000, -1}, "time").read(found));
}

TEST(broken_records_are_never_read_past_their_end) {
    std::mt19937 random(1);
    const std::string whole = records(6);
    for (int i = 0; i < 50'000; ++i) {
        std::vector<char> bytes(whole.begin(),
                                whole.begin() + static_cast<std::ptrdiff_t>(random() % (whole.size() + 1)));
        for (int change = 0; change < 2 && !bytes.empty(); ++change)
            bytes[random() % bytes.size()] = static_cast<char>(random());
        std::vector<KafkaRecord> found;
        KafkaRecords({bytes.data(), bytes.size()}, {6, 0, 0, -1}, "time").read(found);
        for (const KafkaRecord& one : found)
            CHECK(one.value.empty() || (one.value.data() >= bytes.data() &&
                                        one.value.data() + one.value.size() <= bytes.data() + bytes.size()));
    }
}

}  // namespace
