"""What of PostgreSQL's grammar a tenant's statement may use, as sets of pglast's names.

All sets are positive: a node, command or object that is not named here is refused.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reserved:
    """What the server's own catalog adds to the static lists, so that a newer server is covered too.

    `attributes`: names that `x.name` would call as a function or cast (PostgreSQL reads
    `('/etc/passwd').pg_read_file` as a call). `types`: the types of pg_catalog that are not on offer.
    """

    attributes: frozenset[str]
    types: frozenset[str]


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


READING_STATEMENTS = frozenset({"SelectStmt", "ExplainStmt"})

WRITING_STATEMENTS = _set(
    """
    InsertStmt UpdateStmt DeleteStmt MergeStmt TruncateStmt CreateStmt CreateTableAsStmt IndexStmt
    ViewStmt CreateSeqStmt AlterSeqStmt CreateEnumStmt AlterEnumStmt CompositeTypeStmt
    CreateDomainStmt AlterDomainStmt AlterTableStmt RenameStmt DropStmt CommentStmt
    RefreshMatViewStmt
    """
)

# Everything that can stand inside those statements. Not here, on purpose: XML (an engine of its own),
# cursors (CurrentOfExpr), roles (RoleSpec), functions' and triggers' parts.
PARTS = _set(
    """
    RawStmt A_ArrayExpr A_Const A_Expr A_Indices A_Indirection A_Star Alias AlterTableCmd
    ATAlterConstraint BitString Boolean BoolExpr BooleanTest CTECycleClause CTESearchClause CaseExpr
    CaseWhen CoalesceExpr CollateClause ColumnDef ColumnRef CommonTableExpr Constraint DefElem Float
    FuncCall GroupingFunc GroupingSet IndexElem InferClause Integer IntoClause JoinExpr
    JsonAggConstructor JsonArgument JsonArrayAgg JsonArrayConstructor JsonArrayQueryConstructor
    JsonBehavior JsonFormat JsonFuncExpr JsonIsPredicate JsonKeyValue JsonObjectAgg
    JsonObjectConstructor JsonOutput JsonParseExpr JsonReturning JsonScalarExpr JsonSerializeExpr
    JsonTable JsonTableColumn JsonTablePathSpec JsonValueExpr LockingClause MergeSupportFunc
    MergeWhenClause MinMaxExpr MultiAssignRef NamedArgExpr NullTest OnConflictClause ParamRef
    PartitionBoundSpec PartitionCmd PartitionElem PartitionRangeDatum PartitionSpec RangeFunction
    RangeSubselect RangeTableSample RangeVar ResTarget ReturningClause
    ReturningOption RowExpr SQLValueFunction SetToDefault SortBy String SubLink TableLikeClause
    TypeCast TypeName WindowDef WithClause
    """
)

ALTER_TABLE_COMMANDS = _set(
    """
    AT_AddColumn AT_AddColumnToView AT_ColumnDefault AT_DropNotNull AT_SetNotNull AT_SetExpression
    AT_DropExpression AT_SetStatistics AT_SetOptions AT_ResetOptions AT_SetStorage AT_SetCompression
    AT_DropColumn AT_AddIndex AT_AddConstraint AT_AlterConstraint AT_ValidateConstraint
    AT_AddIndexConstraint AT_DropConstraint AT_AlterColumnType AT_ClusterOn AT_DropCluster
    AT_SetLogged AT_SetUnLogged AT_SetRelOptions AT_ResetRelOptions AT_AddInherit AT_DropInherit
    AT_AddOf AT_DropOf AT_AttachPartition AT_DetachPartition AT_AddIdentity
    AT_SetIdentity AT_DropIdentity
    """
)

OBJECTS = _set(
    """
    OBJECT_TABLE OBJECT_VIEW OBJECT_MATVIEW OBJECT_INDEX OBJECT_SEQUENCE OBJECT_TYPE OBJECT_DOMAIN
    OBJECT_COLUMN OBJECT_ATTRIBUTE OBJECT_TABCONSTRAINT OBJECT_DOMCONSTRAINT
    """
)

# current_user, session_user and their kin would show the server's opaque role names.
VALUE_FUNCTIONS = _set(
    """
    SVFOP_CURRENT_DATE SVFOP_CURRENT_TIME SVFOP_CURRENT_TIME_N SVFOP_CURRENT_TIMESTAMP
    SVFOP_CURRENT_TIMESTAMP_N SVFOP_LOCALTIME SVFOP_LOCALTIME_N SVFOP_LOCALTIMESTAMP
    SVFOP_LOCALTIMESTAMP_N
    """
)

SAMPLING_METHODS = frozenset({"bernoulli", "system"})

# The slots that hold the qualified name of an operator, collation or operator class.
QUALIFIED_SLOTS = {
    "A_Expr": ("name",),
    "SubLink": ("operName",),
    "SortBy": ("useOp",),
    "CollateClause": ("collname",),
    "IndexElem": ("opclass", "collation"),
    "PartitionElem": ("opclass", "collation"),
}

# The slots that would place data outside the server's default tablespace.
TABLESPACE_SLOTS = {
    "CreateStmt": "tablespacename",
    "IndexStmt": "tableSpace",
    "IntoClause": "tableSpaceName",
    "Constraint": "indexspace",
}

# Built-in types by their names in pg_type. Not here: the reg* types and aclitem turn numbers into names
# of others' objects and roles; pg_* and the pseudo-types have no use in a table.
BUILTIN_TYPES = _set(
    """
    bool bytea char name int8 int2 int4 text oid xid xid8 cid tid json jsonb jsonpath point lseg path
    box polygon line circle float4 float8 money macaddr macaddr8 inet cidr bpchar varchar date time
    timestamp timestamptz interval timetz bit varbit numeric tsvector tsquery uuid int4range
    int8range numrange tsrange tstzrange daterange int4multirange int8multirange nummultirange
    tsmultirange tstzmultirange datemultirange record refcursor
    """
)
