--- Foreign keys that form circles: what is set to NULL, then what goes along, the deepest first, then the row itself.
-- table dept: id int key, head int null -> emp.id set_null
-- table emp: id int key, dept int null -> dept.id cascade
-- table tree: id int key, parent int null -> tree.id cascade
-- settings: checks descends
-- delete dept (1, 7)
-- delete emp (9, 2)
-- truncate tree

WITH RECURSIVE _replicator_descent (t,l,k0_0,k1_0) AS (SELECT 0,0,c.`id`,NULL FROM (VALUES ROW(1)) AS n(o0) STRAIGHT_JOIN `dept` AS c FORCE INDEX (`PRIMARY`) ON c.`id`=n.o0 UNION DISTINCT SELECT 1,0,NULL,c.`id` FROM `emp` AS c WHERE FALSE UNION DISTINCT SELECT /*+ INDEX(c) */ 1,d.l+1,NULL,c.`id` FROM _replicator_descent AS d STRAIGHT_JOIN `dept` AS p FORCE INDEX (`PRIMARY`) ON p.`id`=d.k0_0 STRAIGHT_JOIN `emp` AS c ON c.`dept`=p.`id` WHERE d.t=0 AND d.l<1) UPDATE /*+ INDEX(c) */ _replicator_descent AS d STRAIGHT_JOIN `emp` AS p FORCE INDEX (`PRIMARY`) ON p.`id`=d.k1_0 STRAIGHT_JOIN `dept` AS c ON c.`head`=p.`id` SET c.`head`=NULL WHERE d.t=1;
WITH RECURSIVE _replicator_descent (t,l,k0_0,k1_0) AS (SELECT 0,0,c.`id`,NULL FROM (VALUES ROW(1)) AS n(o0) STRAIGHT_JOIN `dept` AS c FORCE INDEX (`PRIMARY`) ON c.`id`=n.o0 UNION DISTINCT SELECT 1,0,NULL,c.`id` FROM `emp` AS c WHERE FALSE UNION DISTINCT SELECT /*+ INDEX(c) */ 1,d.l+1,NULL,c.`id` FROM _replicator_descent AS d STRAIGHT_JOIN `dept` AS p FORCE INDEX (`PRIMARY`) ON p.`id`=d.k0_0 STRAIGHT_JOIN `emp` AS c ON c.`dept`=p.`id` WHERE d.t=0 AND d.l<1) DELETE c FROM _replicator_descent AS d STRAIGHT_JOIN `emp` AS c FORCE INDEX (`PRIMARY`) ON c.`id`=d.k1_0 WHERE d.t=1 AND d.l=1;
DELETE /*+ INDEX(`dept` `PRIMARY`) */ FROM `dept` WHERE `id` IN (1);
WITH RECURSIVE _replicator_descent (t,l,k0_0,k1_0) AS (SELECT 0,0,c.`id`,NULL FROM (VALUES ROW(9)) AS n(o0) STRAIGHT_JOIN `emp` AS c FORCE INDEX (`PRIMARY`) ON c.`id`=n.o0 UNION DISTINCT SELECT 1,0,NULL,c.`id` FROM `dept` AS c WHERE FALSE) UPDATE /*+ INDEX(c) */ _replicator_descent AS d STRAIGHT_JOIN `emp` AS p FORCE INDEX (`PRIMARY`) ON p.`id`=d.k0_0 STRAIGHT_JOIN `dept` AS c ON c.`head`=p.`id` SET c.`head`=NULL WHERE d.t=0;
DELETE /*+ INDEX(`emp` `PRIMARY`) */ FROM `emp` WHERE `id` IN (9);
UPDATE `tree` SET `parent`=NULL;
DELETE FROM `tree`;
