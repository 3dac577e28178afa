--- Foreign keys that form circles: a fast plan deletes only what nothing refers to.
-- table dept: id int key, head int null -> emp.id set_null
-- table emp: id int key, dept int null -> dept.id cascade
-- table tree: id int key, parent int null -> tree.id cascade
-- settings: checks descents
-- delete dept (1, 7)
-- delete emp (9, 2)
-- delete tree (5, 4)

DO IF(EXISTS(SELECT /*+ INDEX(c) */ 1 FROM (VALUES ROW(1)) AS n(o0) STRAIGHT_JOIN `dept` AS p FORCE INDEX (`PRIMARY`) ON p.`id`=n.o0 STRAIGHT_JOIN `emp` AS c ON c.`dept`=p.`id`),(SELECT 1 UNION ALL SELECT 2),0);
DELETE /*+ INDEX(`dept` `PRIMARY`) */ FROM `dept` WHERE `id` IN (1);
DO IF(EXISTS(SELECT /*+ INDEX(c) */ 1 FROM (VALUES ROW(9)) AS n(o0) STRAIGHT_JOIN `emp` AS p FORCE INDEX (`PRIMARY`) ON p.`id`=n.o0 STRAIGHT_JOIN `dept` AS c ON c.`head`=p.`id`),(SELECT 1 UNION ALL SELECT 2),0);
DELETE /*+ INDEX(`emp` `PRIMARY`) */ FROM `emp` WHERE `id` IN (9);
DO IF(EXISTS(SELECT /*+ INDEX(c) */ 1 FROM (VALUES ROW(5)) AS n(o0) STRAIGHT_JOIN `tree` AS p FORCE INDEX (`PRIMARY`) ON p.`id`=n.o0 STRAIGHT_JOIN `tree` AS c ON c.`parent`=p.`id`),(SELECT 1 UNION ALL SELECT 2),0);
DELETE /*+ INDEX(`tree` `PRIMARY`) */ FROM `tree` WHERE `id` IN (5);
