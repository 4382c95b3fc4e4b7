// Columns are told by their names and types; each rule of `_check` in monolith_py/io/codec/examples.py has its line.
#include "codec/example_record.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

namespace monolith::codec {

namespace {

constexpr std::string_view kVersionKey = "monolith.examples", kVersion = "1";
constexpr uint8_t kLastKind = 1;

bool is_utf8(std::string_view text) { return joiner::num_chars(text) != SIZE_MAX; }

// Return whether `rule` holds for all values; without a branch, so that it vectorises.
template <typename T, typename Rule>
bool all(const char* values, size_t num, Rule rule) {
    bool holds = true;
    for (size_t i = 0; i < num; ++i) holds &= static_cast<bool>(rule(joiner::load<T>(values + i * sizeof(T))));
    return holds;
}

struct DictionaryTexts {
    int64_t id;
    Texts texts;
};

Texts read_dictionary(const Message& message, int64_t& id) {
    require(message.header.number<uint8_t>(2) == 0);  // the whole, no addition to another one
    id = message.header.number<int64_t>(0);
    BatchReader batch(message.header.table(1), message.body);
    const Texts texts = batch.texts();
    batch.finish();
    return texts;
}

void read_metadata(const FlatTable& schema, ExampleRecord& record) {
    const FlatVector entries = schema.vector(2, 4);
    bool has_version = false;
    std::vector<std::string_view> keys;
    for (size_t i = 0; i < entries.size(); ++i) {
        const std::string_view key = entries.table(i).text(0), text = entries.table(i).text(1);
        require(std::find(keys.begin(), keys.end(), key) == keys.end() && is_utf8(key) && is_utf8(text));
        keys.push_back(key);
        if (key == kVersionKey) {
            require(text == kVersion);
            has_version = true;
        } else {
            record.metadata.emplace_back(key, text);
        }
    }
    require(has_version);
}

// Reads the record batch of a record.
class Columns {
  public:
    Columns(const std::vector<Field>& fields, const std::vector<DictionaryTexts>& dictionaries, ExampleRecord& record)
        : fields_(fields), dictionaries_(dictionaries), record_(record) {}

    void read(BatchReader& batch) {
        record_.num_rows = batch.num_rows();
        for (const Field& field : fields_)
            if (!read_fixed(field, batch)) read_named(field, batch);
        batch.finish();
        require(record_.request_ids.offsets != nullptr && record_.item_ids != nullptr && record_.times_ms != nullptr);
        require(record_.kinds != nullptr && record_.sample_rates != nullptr);
        combine_models();
    }

  private:
    // Read one of the columns of every record; return false if `field` is none.
    bool read_fixed(const Field& field, BatchReader& batch) {
        const auto values = [&](ColumnType type, size_t value_bytes) {
            require(field.type == type);
            return batch.values(value_bytes);
        };
        if (field.name == "request_id") {
            require(field.type == ColumnType::kText);
            record_.request_ids = batch.texts();
        } else if (field.name == "item_id") {
            record_.item_ids = values(ColumnType::kInt64, sizeof(int64_t));
        } else if (field.name == "time_ms") {
            record_.times_ms = values(ColumnType::kInt64, sizeof(int64_t));
        } else if (field.name == "kind") {
            record_.kinds = values(ColumnType::kUint8, sizeof(uint8_t));
        } else if (field.name == "sample_rate") {
            record_.sample_rates = values(ColumnType::kFloat, sizeof(float));
        } else if (field.name == "arm") {
            read_codes(field, batch, arms_, arm_codes_);
        } else if (field.name == "model_version") {
            read_codes(field, batch, versions_, version_codes_);
        } else {
            return false;
        }
        return true;
    }
    void read_named(const Field& field, BatchReader& batch) {
        const size_t end = field.name.find('_');
        require(end != std::string_view::npos && end + 1 < field.name.size());
        const std::string_view prefix = field.name.substr(0, end), rest = field.name.substr(end + 1);
        if (prefix == "label" || prefix == "score") {
            require(field.type == ColumnType::kFloat);
            (prefix == "label" ? record_.labels : record_.scores).push_back({rest, batch.values(sizeof(float))});
        } else if (prefix == "s") {
            require(field.type == ColumnType::kBags);
            record_.sparse.push_back({rest, batch.bags()});
        } else {
            require(prefix == "d" && field.type == ColumnType::kDense);
            record_.dense.push_back({rest, field.width, batch.dense(field.width)});
        }
    }
    void read_codes(const Field& field, BatchReader& batch, Texts& texts, const char*& codes) {
        require(field.type == ColumnType::kDictionary);
        const auto found = std::find_if(dictionaries_.begin(), dictionaries_.end(),
                                        [&](const DictionaryTexts& one) { return one.id == field.dictionary_id; });
        require(found != dictionaries_.end());
        texts = found->texts;
        codes = batch.values(sizeof(int32_t));
        const auto size = static_cast<int64_t>(texts.size);
        require(all<int32_t>(codes, record_.num_rows, [&](int32_t code) { return (code >= 0) & (code < size); }));
    }
    // Both texts have the same codes in what our own writers make.
    void combine_models() {
        if (arm_codes_ == nullptr && version_codes_ == nullptr) {
            require(record_.scores.empty());
            return;
        }
        require(arm_codes_ != nullptr && version_codes_ != nullptr && arms_.size == versions_.size);
        const size_t num_bytes = record_.num_rows * sizeof(int32_t);
        require(num_bytes == 0 || std::memcmp(arm_codes_, version_codes_, num_bytes) == 0);
        for (size_t i = 0; i < arms_.size; ++i) record_.models.emplace_back(arms_.text(i), versions_.text(i));
        record_.model_codes = arm_codes_;
    }

    const std::vector<Field>& fields_;
    const std::vector<DictionaryTexts>& dictionaries_;
    ExampleRecord& record_;
    Texts arms_, versions_;
    const char* arm_codes_ = nullptr;
    const char* version_codes_ = nullptr;
};

void check_values(const ExampleRecord& record) {
    const size_t num = record.num_rows;
    require(!record.labels.empty());
    for (const TaskColumn& labels : record.labels)
        require(all<float>(labels.values, num, [](float label) { return (label >= 0) & (label <= FLT_MAX); }));
    require(all<float>(record.sample_rates, num, [](float rate) { return (rate > 0) & (rate <= 1); }));
    require(all<uint8_t>(record.kinds, num, [](uint8_t kind) { return kind <= kLastKind; }));
    require(all<int64_t>(record.times_ms, num, [](int64_t time_ms) { return time_ms > 0; }));
    for (const TaskColumn& scores : record.scores)
        require(all<float>(scores.values, num, [](float score) {
            return static_cast<int>(std::isnan(score)) | ((score >= 0) & (score <= FLT_MAX));
        }));
    for (const DenseColumn& dense : record.dense)
        require(all<float>(dense.values, num * dense.width, [](float value) { return std::isfinite(value); }));
    bool has_ids = true;
    for (size_t row = 0; row < num; ++row)
        has_ids &= record.request_ids.offset(row + 1) > record.request_ids.offset(row);
    require(has_ids);
}

void check_names(const std::vector<Field>& fields) {
    std::vector<std::string_view> names;
    names.reserve(fields.size());
    for (const Field& field : fields) names.push_back(field.name);
    std::sort(names.begin(), names.end());
    require(std::adjacent_find(names.begin(), names.end()) == names.end());
}

// Check that each dictionary is that of one column.
void check_dictionaries(const std::vector<Field>& fields, const std::vector<DictionaryTexts>& dictionaries) {
    for (const DictionaryTexts& one : dictionaries) {
        const auto num = std::count_if(fields.begin(), fields.end(), [&](const Field& field) {
            return field.type == ColumnType::kDictionary && field.dictionary_id == one.id;
        });
        const auto num_same = std::count_if(dictionaries.begin(), dictionaries.end(),
                                            [&](const DictionaryTexts& other) { return other.id == one.id; });
        require(num == 1 && num_same == 1);
    }
    require(dictionaries.size() ==
            static_cast<size_t>(std::count_if(fields.begin(), fields.end(), [](const Field& field) {
                return field.type == ColumnType::kDictionary;
            })));
}

void read_stream(std::string_view value, ExampleRecord& record) {
    MessageReader messages(value);
    std::optional<Message> message = messages.next();
    require(message && message->kind == MessageKind::kSchema && message->body.empty());
    const std::vector<Field> fields = read_fields(message->header);
    check_names(fields);
    read_metadata(message->header, record);
    std::vector<DictionaryTexts> dictionaries;
    while ((message = messages.next()) && message->kind == MessageKind::kDictionary) {
        DictionaryTexts read{};
        read.texts = read_dictionary(*message, read.id);
        dictionaries.push_back(read);
    }
    require(message && message->kind == MessageKind::kRecordBatch);
    check_dictionaries(fields, dictionaries);
    BatchReader batch(message->header, message->body);
    Columns(fields, dictionaries, record).read(batch);
    require(!messages.next());
    check_values(record);
}

}  // namespace

std::optional<ExampleRecord> ExampleRecord::read(std::string_view value) {
    ExampleRecord record;
    try {
        read_stream(value, record);
    } catch (const OtherForm&) {
        return std::nullopt;
    }
    return record;
}

}  // namespace monolith::codec
