--- Foreign keys that form circles: a fast plan deletes only what nothing refers to.
-- table dept: id int key, head int null -> emp.id set_null
-- table emp: id int key, dept int null -> dept.id cascade
-- table tree: id int key, parent int null -> tree.id cascade
-- settings: checks descents
-- delete dept (1, 7)
-- delete emp (9, 2)
-- delete tree (5, 4)

DO IF(EXISTS(SELECT /*+ INDEX(c) */ 1 FROM `dept` AS p FORCE INDEX (`PRIMARY`) STRAIGHT_JOIN `emp` AS c ON c.`dept`=p.`id` WHERE (p.`id` IN (1))),(SELECT 1 UNION ALL SELECT 2),0);
DELETE /*+ INDEX(`dept` `PRIMARY`) */ FROM `dept` WHERE `id` IN (1);
DO IF(EXISTS(SELECT /*+ INDEX(c) */ 1 FROM `emp` AS p FORCE INDEX (`PRIMARY`) STRAIGHT_JOIN `dept` AS c ON c.`head`=p.`id` WHERE (p.`id` IN (9))),(SELECT 1 UNION ALL SELECT 2),0);
DELETE /*+ INDEX(`emp` `PRIMARY`) */ FROM `emp` WHERE `id` IN (9);
DO IF(EXISTS(SELECT /*+ INDEX(c) */ 1 FROM `tree` AS p FORCE INDEX (`PRIMARY`) STRAIGHT_JOIN `tree` AS c ON c.`parent`=p.`id` WHERE (p.`id` IN (5))),(SELECT 1 UNION ALL SELECT 2),0);
DELETE /*+ INDEX(`tree` `PRIMARY`) */ FROM `tree` WHERE `id` IN (5);
