"""The built-in functions that a tenant's statement may call; every other name is refused.

The list is positive: a new PostgreSQL can only add names that are refused until someone has read
them. It holds the documented functions that compute from their arguments (immutable or stable in
`pg_proc`), and the few volatile ones named below. Left out on purpose, though stable: whatever reads
the catalog, the settings or the session (`current_setting`, `format_type`, `has_*_privilege`,
`obj_description`, `pg_*`), runs SQL given as text (`query_to_xml`, `ts_stat`, `ts_rewrite`), or
reaches files, sessions or large objects.
"""

from __future__ import annotations

# Volatile, and harmless: they draw numbers or read the clock.
_DRAWN = """
array_sample array_shuffle clock_timestamp gen_random_uuid random random_normal timeofday uuidv4
uuidv7
"""

# Volatile: they move the tenant's own sequences; their argument is checked (statements.py).
SEQUENCE_FUNCTIONS = frozenset({"nextval", "setval", "currval"})

_NUMBERS = """
abs acos acosd acosh asin asind asinh atan atan2 atan2d atand atanh bit_count cbrt ceil ceiling cos
cosd cosh cot cotd degrees div erf erfc exp factorial floor gamma gcd lcm lgamma ln log log10
min_scale mod pi pow power radians round scale sign sin sind sinh sqrt tan tand tanh trim_scale
trunc width_bucket
"""

_STRINGS = """
ascii bit_length btrim casefold char_length character_length chr concat concat_ws convert
convert_from convert_to crc32 crc32c decode encode format get_bit get_byte initcap is_normalized
left length like like_escape lower lpad ltrim md5 normalize notlike octet_length overlay parse_ident
position quote_ident quote_literal quote_nullable regexp_count regexp_instr regexp_like
regexp_match regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table
regexp_substr repeat replace reverse right rpad rtrim set_bit set_byte sha224 sha256 sha384 sha512
similar_escape similar_to_escape split_part starts_with string_to_array string_to_table strpos
substr substring to_ascii to_bin to_char to_date to_hex to_number to_oct to_timestamp translate
unicode_assigned unistr upper
"""

_TIMES = """
age date_add date_bin date_part date_subtract date_trunc extract isfinite justify_days
justify_hours justify_interval make_date make_interval make_time make_timestamp make_timestamptz
now overlaps statement_timestamp timezone transaction_timestamp uuid_extract_timestamp
uuid_extract_version
"""

_ARRAYS_AND_RANGES = """
array_append array_cat array_dims array_fill array_length array_lower array_ndims array_position
array_positions array_prepend array_remove array_replace array_reverse array_sort array_to_string
array_upper cardinality datemultirange daterange enum_first enum_last enum_range generate_series
generate_subscripts int4multirange int4range int8multirange int8range isempty lower_inc lower_inf
multirange num_nonnulls num_nulls nummultirange numrange range_merge trim_array tsmultirange tsrange
tstzmultirange tstzrange unnest upper_inc upper_inf
"""

_JSON = """
array_to_json json_agg json_agg_strict json_array_elements json_array_elements_text
json_array_length json_build_array json_build_object json_each json_each_text json_extract_path
json_extract_path_text json_object json_object_agg json_object_agg_strict json_object_agg_unique
json_object_agg_unique_strict json_object_keys json_populate_record json_populate_recordset
json_strip_nulls json_to_record json_to_recordset json_typeof jsonb_agg jsonb_agg_strict
jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array
jsonb_build_object jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text
jsonb_insert jsonb_object jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique
jsonb_object_agg_unique_strict jsonb_object_keys jsonb_path_exists jsonb_path_exists_tz
jsonb_path_match jsonb_path_match_tz jsonb_path_query jsonb_path_query_array
jsonb_path_query_array_tz jsonb_path_query_first jsonb_path_query_first_tz jsonb_path_query_tz
jsonb_populate_record jsonb_populate_record_valid jsonb_populate_recordset jsonb_pretty jsonb_set
jsonb_set_lax jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_typeof row_to_json to_json
to_jsonb
"""

_AGGREGATES_AND_WINDOWS = """
any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp
cume_dist dense_rank every first_value lag last_value lead max min mode nth_value ntile percent_rank
percentile_cont percentile_disc range_agg range_intersect_agg rank regr_avgx regr_avgy regr_count
regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy row_number stddev stddev_pop
stddev_samp string_agg sum var_pop var_samp variance
"""

_TEXT_SEARCH = """
array_to_tsvector json_to_tsvector jsonb_to_tsvector numnode phraseto_tsquery plainto_tsquery
querytree setweight strip to_tsquery to_tsvector ts_delete ts_filter ts_headline ts_rank ts_rank_cd
tsquery_phrase tsvector_to_array websearch_to_tsquery
"""

_GEOMETRY_AND_NETWORK = """
abbrev area bound_box box broadcast center cidr circle diagonal diameter family height host hostmask
inet_merge inet_same_family isclosed isopen ishorizontal isparallel isperp isvertical line lseg
macaddr macaddr8 macaddr8_set7bit masklen netmask network npoints path pclose point polygon popen
radius set_masklen slope width
"""

# What a cast written as a call uses: `text(x)`, `float8(x)`, `date(x)`.
_CASTS = """
bit bool bpchar bytea char date float4 float8 int2 int4 int8 interval money name numeric text time
timestamp timestamptz timetz varbit varchar
"""

# They tell about their argument only. pg_collation_for is what COLLATION FOR (x) turns into;
# pg_get_serial_sequence only stands inside nextval and its kin (walk.py). Not pg_typeof: its regtype
# makes a regtype of any integer beside it (`values (16721), (pg_typeof(1))`), and that is the name of
# whatever type has this number, with its schema.
_ABOUT_VALUES = """
pg_collation_for pg_column_size pg_get_serial_sequence pg_size_bytes pg_size_pretty version
"""

ALLOWED_FUNCTIONS: frozenset[str] = SEQUENCE_FUNCTIONS.union(
    {"lastval"},
    *(
        family.split()
        for family in (
            _DRAWN,
            _NUMBERS,
            _STRINGS,
            _TIMES,
            _ARRAYS_AND_RANGES,
            _JSON,
            _AGGREGATES_AND_WINDOWS,
            _TEXT_SEARCH,
            _GEOMETRY_AND_NETWORK,
            _CASTS,
            _ABOUT_VALUES,
        )
    ),
)

VOLATILE_FUNCTIONS: frozenset[str] = SEQUENCE_FUNCTIONS.union({"lastval"}, _DRAWN.split())
